"""What a test leaves in a wide fixture's hands comes to light when that ends, while another test runs: the guilty one is told."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from xml.etree import ElementTree as ET

import pytest

REGISTRY = """
    import types

    MODULE = types.SimpleNamespace()

    def setup_module():
        MODULE.sessions = []

    @pytest.fixture(scope="module")
    def registry():
        return []

    async def test_guilty(engine, registry):
        registry.append(await engine.connect())

    async def test_innocent(engine, registry):
        await slowly(engine, 0)

    async def test_failed(engine, registry):
        registry.append(await engine.connect())
        assert not "so"

    @pytest.mark.poolguard(expect_leak=True)
    async def test_expected(engine, registry):
        registry.append(await engine.connect())

    async def test_last(engine, registry):
        registry.append(AsyncSession(engine))
        await registry[-1].execute(SELECT)
        await registry.pop().close()
"""


def test_leak_into_a_wide_fixture(suite):
    """The test is told that has checked it out, as an error of its teardown; no other."""
    run = suite(REGISTRY)
    assert run.results == {
        "test_guilty": "error",
        "test_innocent": "passed",
        "test_failed": "failed",
        "test_expected": "passed",
        "test_last": "passed",
    }, run.text
    assert set(run.blamed) == {"test_guilty"}
    told = run.blamed["test_guilty"]
    assert "checked out at test_it.py:" in told
    assert "in test_guilty" in told
    assert "kept by fixture 'registry' (module scope), and was still out when that ended" in told
    assert "in the setup of" not in told
    assert run.ret == 1


def test_leak_into_an_attribute(suite):
    """Likewise of a module's attribute, where `setup_module` is, and of the class's, in the last test itself."""
    run = suite("""
    def setup_module(module):
        module.sessions = []

    async def test_guilty(engine):
        sessions.append(AsyncSession(engine))
        await sessions[0].execute(SELECT)

    async def test_innocent(engine):
        await slowly(engine, 0)

    class TestClass:
        @classmethod
        def setup_class(cls):
            cls.sessions = []

        async def test_before(self, engine):
            await slowly(engine, 0)

        async def test_last(self, engine):
            self.sessions.append(AsyncSession(engine))
            await self.sessions[0].execute(SELECT)
    """)
    assert set(run.blamed) == {"test_guilty", "test_last"}, run.text
    assert run.results["test_innocent"] == run.results["test_before"] == "passed"


def test_it_may_only_warn(suite):
    """Where the plugin only warns, the warning names the guilty test."""
    run = suite(REGISTRY, poolguard="warn")
    ((_, told),) = run.warnings
    assert told.startswith("test_it.py::test_guilty: connection orphaned")
    assert run.blamed == {}


LEFT_TO_A_CLASS = """
    engine = new_engine(pool_size=20)

    @pytest.fixture(scope="class")
    def registry():
        return []

    class TestClass:
        async def test_guilty(self, registry):
            registry.append(await engine.connect())

        async def test_innocent(self, registry):
            async def work():
                while True:
                    await asyncio.sleep(0.02)
                    async with engine.connect():
                        await asyncio.sleep(0.05)
            KEPT.append(asyncio.create_task(work()))

    async def test_after():
        await asyncio.sleep(0.15)

    async def test_last():
        await asyncio.sleep(0.11)
"""


def test_warnings_may_be_errors(suite):
    """Where such warnings are errors, the guilty test is told as by an error; the one that runs, and the tasks it leaves, as ever."""
    run = suite(
        LEFT_TO_A_CLASS,
        "-W",
        "error::sqla_poolguard._testing.policy.PoolguardWarning",
        poolguard="warn",
        poolguard_quiesce="0.01",
        asyncio_default_test_loop_scope="module",
    )
    assert set(run.blamed) == {"test_guilty"}, run.text
    assert {name for name, result in run.results.items() if result == "passed"} == {"test_innocent", "test_after", "test_last"}
    assert run.ret == 1


HEAD = """
    import pytest
    from sqlalchemy import text
    from sqla_poolguard.testing import FakeDriver

    @pytest.fixture
    def engine():
        return FakeDriver().engine()

    @pytest.fixture(scope="module")
    def registry():
        return []

    async def test_guilty(engine, registry):
        registry.append(await engine.connect())

    async def test_innocent(engine, registry):
        pass
"""


@pytest.mark.parametrize("options", [[], ["-n", "1"], ["-n", "2", "--dist=loadfile"], ["-v"]])
def test_everybody_hears_of_it(tmp_path, options):
    """The terminal, the exit status and JUnit's file name the guilty test, and no other; under pytest-xdist, too."""
    (tmp_path / "test_it.py").write_text(textwrap.dedent(HEAD))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=out.xml", *options, "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ERROR test_it.py::test_guilty - Failed: sqla-poolguard: connection" in done.stdout, done.stdout
    assert re.search("2 passed, .*1 error", done.stdout)
    assert "ERROR test_it.py::test_innocent" not in done.stdout
    errors = [(case.get("name"), case.find("error")) for case in ET.parse(tmp_path / "out.xml").iter("testcase")]
    assert {name for name, error in errors if error is not None} == {"test_guilty"}
    assert "checked out at test_it.py:" in next(error.text for _, error in errors if error is not None)


CUT_SHORT = """
    import asyncio
    import pytest
    from sqla_poolguard.testing import FakeDriver

    @pytest.fixture
    def engine():
        return FakeDriver().engine()

    @pytest.fixture(scope="module")
    def registry():
        yield []

    @pytest.fixture(scope="session")
    def leaky():
        loop = asyncio.new_event_loop()
        asyncio.leaked = loop.run_until_complete(FakeDriver().engine().connect().__aenter__())
        yield
        loop.close()

    async def test_guilty(engine, registry):
        registry.append(await engine.connect())

    def test_innocent(leaky):
        pass

    def test_ends():
        {ends}

    def test_never(engine, registry):
        pass
"""


ALWAYS_A_NEXT = """
    import pytest
    from _pytest.runner import runtestprotocol

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        runtestprotocol(item, nextitem=nextitem or item.session.items[0])
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True
"""
"""Lets no wide fixture end with a test: they end with the run, as after an interrupt."""


@pytest.mark.parametrize(
    ("ends", "options", "conftest", "code"),
    [
        ("assert not 'so'", ["-x"], "", 1),
        ("pytest.exit('enough')", [], "", 2),
        ("pass", [], ALWAYS_A_NEXT, 1),
        ("pass", ["-n", "1"], ALWAYS_A_NEXT, 1),
    ],
    ids=["-x", "exit", "run", "xdist"],
)
def test_a_run_that_is_cut_short(tmp_path, ends, options, conftest, code):
    """What is left with fixtures that pytest ends with the run, not with a test, is told, too; and whose fixture leaks by itself."""
    (tmp_path / "test_it.py").write_text(textwrap.dedent(CUT_SHORT).format(ends=ends))
    (tmp_path / "conftest.py").write_text(textwrap.dedent(conftest))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    blamed = re.findall(r"^ERROR test_it.py::(\w+)", done.stdout, re.MULTILINE)  # pytest 8 says no more there
    assert blamed == (["test_guilty"] if "-x" in options else ["test_guilty", "test_innocent"]), done.stdout
    assert "kept by fixture 'registry' (module scope), and was still out when that ended" in done.stdout
    ended = "ended here" if "-x" in options else "was set up for this test"
    assert f"kept by fixture 'leaky' (session scope), which {ended}: this test is not to blame" in done.stdout
    assert "connections wasted (sqla-poolguard)" in done.stdout
    assert done.returncode == code


def test_a_run_that_is_cut_short_may_only_warn(suite):
    """Likewise where the plugin only warns."""
    run = suite(REGISTRY, "-x", "--deselect=test_it.py::test_expected", poolguard="warn")
    assert run.blamed == {}
    assert any(told.startswith("test_it.py::test_guilty: connection orphaned") for _, told in run.warnings)


def test_a_fixture_that_ends_with_its_parameter(suite):
    """What a fixture leaves by itself when the next parameter ends it, in a setup, is told to a test of its own parameter."""
    run = suite("""
    @pytest.fixture(scope="module", params=["one", "two"])
    def wide(request):
        loop = asyncio.new_event_loop()
        KEPT.append(loop.run_until_complete(new_engine().connect().__aenter__()))
        yield []
        loop.close()

    def test_first(wide):
        pass

    async def test_second(wide, engine):
        wide.append(await engine.connect())

    def test_third(wide):
        pass
    """)
    assert set(run.blamed) == {"test_first[one]", "test_second[one]", "test_second[two]", "test_third[two]"}, run.text
    for parameter, test, how in (
        ("one", "test_first[one]", "which was set up for this test"),
        ("two", "test_third[two]", "which ended here"),
    ):
        told = run.blamed[test]
        assert f"kept by fixture 'wide' (module scope), {how}: this test is not to blame" in told, parameter
    assert "this test is not to blame" not in run.blamed["test_second[one]"]
