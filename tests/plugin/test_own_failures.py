"""Tests that fail by themselves: what they leave is told beside that, and who only seemed to fail is held to his own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")


def test_unittest_that_fails_by_itself(suite):
    """Unittest keeps an error to itself until the report is made; what the test left is told beside it, and not what a skipped test left."""
    run = suite("""
    import unittest

    class TestAll(unittest.IsolatedAsyncioTestCase):
        async def test_fails(self):
            KEPT.append(await new_engine().connect())
            self.fail("by itself")

        @unittest.expectedFailure
        async def test_expectedly(self):
            KEPT.append(await new_engine().connect())
            self.fail("by itself")

        async def test_skips(self):
            KEPT.append(await new_engine().connect())
            self.skipTest("no need")

        async def test_after(self):
            await slowly(new_engine(), 0)
    """)
    assert set(run.blamed) == {"test_skips"}, run.text
    assert (run.results["test_fails"], run.results["test_after"]) == ("failed", "passed")
    assert all("failed by itself" in run.sections[name] for name in ("test_fails", "test_expectedly"))


@pytest.mark.parametrize("error", ["SystemExit", "asyncio.CancelledError", "pytest.fail.Exception"])
def test_whatever_is_raised_is_a_failure(suite, error):
    """A test that ends by what is no Exception has failed by itself, too."""
    run = suite(f"""
    async def keep(engine):
        KEPT.append(await engine.connect())

    @pytest.fixture
    def later(engine):
        yield
        asyncio.run(keep(engine))

    def test_it(later):
        raise {error}

    def test_skipped(later):
        pytest.skip("no need")
    """)
    assert set(run.blamed) == {"test_skipped"}, run.text
    assert "failed by itself" in run.sections["test_it"]


TWO_PHASES = """
    import time

    @pytest.fixture
    async def later(engine):
        yield
        KEPT.append(await engine.connect())

    async def test_it(engine, later):
        async with engine.connect():
            with contextlib.suppress(BaseException):
                time.sleep(0)
"""


@pytest.mark.parametrize(("mode", "options"), [("strict", []), ("warn", ["-W", "error"])], ids=["strict", "warnings are errors"])
def test_what_is_told_in_two_phases(suite, mode, options):
    """A test that failed for a forbidden call is told beside that, and not again, what its teardown leaves."""
    run = suite(TWO_PHASES, *options, poolguard=mode, poolguard_forbidden_calls="time:sleep")
    assert run.results == {"test_it": "failed"}, run.text
    assert "time:sleep" in run.told["test_it"]
    assert "failed by itself" in run.sections["test_it"]


def test_a_part_that_fails(suite):
    """A test has failed if one of its subtests has."""
    run = suite("""
    import unittest

    class TestAll(unittest.IsolatedAsyncioTestCase):
        async def test_it(self):
            with self.subTest(number=1):
                KEPT.append(await new_engine().connect())
                self.fail("by itself")
    """)
    assert run.blamed == {}, run.text
    assert "failed" in run.results.values()


def test_what_others_make_of_an_error(suite):
    """It counts what a test's report says: others may swallow an error, skip for it, or find one of their own."""
    run = suite(
        """
    async def test_swallowed(engine):
        KEPT.append(await engine.connect())
        raise ConnectionRefusedError

    async def test_skips(engine):
        KEPT.append(await engine.connect())
        raise ConnectionRefusedError

    async def test_reports_a_skip(engine):
        KEPT.append(await engine.connect())
        raise ConnectionResetError

    async def test_unittest_skips(engine):
        import unittest
        KEPT.append(await engine.connect())
        raise unittest.SkipTest("no need")

    async def test_is_checked(engine):
        KEPT.append(await engine.connect())
    """,
        conftest="""
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(item):
        try:
            result = yield
        except ConnectionRefusedError:
            if item.name == "test_skips":
                pytest.skip("no server")
            return None
        if item.name == "test_is_checked":
            raise ValueError
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(item, call):
        if call.excinfo is not None and call.excinfo.errisinstance(ConnectionResetError):
            call.excinfo = pytest.CallInfo.from_call(lambda: pytest.skip("no server"), call.when).excinfo
    """,
    )
    assert set(run.blamed) == {"test_swallowed", "test_skips", "test_reports_a_skip", "test_unittest_skips"}, run.text
    assert "failed by itself" in run.sections["test_is_checked"]


@pytest.mark.parametrize("kept", ["(ValueError, ValueError(), None)", "ValueError()", "[ValueError()]"])
def test_a_kind_of_test_that_keeps_its_own_errors(suite, pytester, kept):
    """What another kind of test calls as pytest does unittest's errors is not ours to read."""
    pytester.path.joinpath("x.foo").touch()
    run = suite(
        "def test_it(engine): pass",
        ".",
        conftest=f"""
    class Other(pytest.Item):
        def runtest(self):
            self._excinfo = {kept}

    class Others(pytest.File):
        def collect(self):
            yield Other.from_parent(self, name="other")

    def pytest_collect_file(parent, file_path):
        if file_path.suffix == ".foo":
            return Others.from_parent(parent, path=file_path)
    """,
    )
    assert run.results == {"test_it": "passed", "other": "passed"}, run.text


@pytest.mark.parametrize("where", ["test_it", "broken"])
def test_who_imports_the_pool_and_fails(tmp_path, where):
    """The test, or the fixture, in the midst of which the pool is imported is told of its own failure alone."""
    steps = """
        from sqla_poolguard.testing import FakeDriver
        KEPT.append(await FakeDriver().engine().connect())
        raise ValueError("by itself")"""
    source = f"""
    import pytest

    KEPT = []

    @pytest.fixture
    async def broken():{steps if where == "broken" else " pass"}

    async def test_it(broken):{steps if where == "test_it" else " pass"}
    """
    (tmp_path / "test_it.py").write_text(textwrap.dedent(source))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert f"= 1 {'failed' if where == 'test_it' else 'error'} in " in done.stdout, done.stdout
    assert where == "broken" or "This test failed by itself, and left this" in done.stdout  # an error's sections are not printed
