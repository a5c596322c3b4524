"""What is demanded of a test: markers, modes and limits; tests that fail, run again or are cut short; what is told of whom."""

from __future__ import annotations

import pytest
from doubles.suites import BACKGROUND, KEEPS, a_test

from sqla_poolguard._ticker import ticker

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")


@pytest.mark.parametrize("body", [KEEPS, "connection = await engine.connect()", BACKGROUND])
@pytest.mark.parametrize(("mark", "result"), [("", "failed"), ("@pytest.mark.xfail", "skipped")])
def test_who_fails_by_himself_is_not_accused(suite, body, mark, result):
    """What a failed test leaves is told beside its failure, and to nobody else."""
    run = suite(a_test(f"{body}; raise ValueError", mark), poolguard_quiesce="0.05")
    assert run.results == {"test_it": result, "test_after": "passed"}, run.text
    assert run.blamed == {}
    if body is not BACKGROUND:  # what its loop has cancelled is back
        assert "This test failed by itself, and left this" in run.sections["test_it"]


def test_who_fails_in_a_fixture_is_not_accused(suite):
    """A fixture that fails after its checkout fails the test, and that is told once."""
    run = suite("""
    @pytest.fixture
    async def broken(engine):
        KEPT.append(await engine.connect())
        raise ValueError

    async def test_it(broken):
        pass

    async def test_after(engine):
        await slowly(engine, 0)
    """)
    assert run.results == {"test_it": "error", "test_after": "passed"}
    assert run.blamed == {}


def test_many_checkouts_are_not_kept(suite):
    """A test of a great many checkouts keeps none that has come back."""
    run = suite(
        """
    @pytest.fixture
    def proctor(pytestconfig):
        return pytestconfig.pluginmanager.getplugin("poolguard-proctor")

    async def test_it(engine, proctor):
        for _ in range(100):
            await slowly(engine, 0)
        assert len(proctor.owner.stays) == 0
    """
    )
    assert set(run.results.values()) == {"passed"}, run.text


def test_a_test_that_is_cancelled(suite):
    """A timeout of the test's own, with SQLAlchemy closing in a task of its own, leaves nothing."""
    run = suite(
        """
    @pytest.fixture(scope="module")
    def engine():
        driver = FakeDriver(rollback="slow", delay=0.05)
        return driver.engine()

    async def test_it(engine):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                async with AsyncSession(engine) as session:
                    await session.execute(SELECT)

    async def test_after(engine):
        await slowly(engine, 0)
    """,
        asyncio_default_test_loop_scope="module",
    )
    assert run.blamed == {}, run.text
    assert set(run.results.values()) == {"passed"}


@pytest.fixture
def nobody_looks(monkeypatch):
    """Let no callback of ours run in the loops: asyncio swallows what a signal raises in the midst of one."""
    monkeypatch.setattr(ticker, "enabled", False)


def test_a_test_that_pytest_timeout_ends(suite, untraced, nobody_looks):
    """It has failed, and what it had out is nobody's fault."""
    run = suite(a_test("await slowly(engine, 60)", "@pytest.mark.timeout(0.3)"), "-o", "timeout_method=signal")
    assert run.results == {"test_it": "failed", "test_after": "passed"}, run.text
    assert run.blamed == {}


LIMITED = """
    gone_on = []

    async def work(engine):
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            await asyncio.sleep(0.75)  # to end while no limit strikes
            frame = sys._getframe()
            while frame is not None:  # the next test of a wide loop may run it on, we must not
                if frame.f_code.co_name == "quiesce":
                    gone_on.append(1)
                frame = frame.f_back

    @pytest.mark.timeout(0.5)
    async def test_own(engine):
        await work(engine)

    def test_own_has_stopped():
        assert not gone_on

    @pytest.mark.timeout(0.5)
    async def test_beside(engine):
        KEPT.append(asyncio.create_task(slowly(engine, 60)))
        await work(engine)

    @pytest.mark.timeout(0.5)
    def test_runs_itself(engine):
        asyncio.run(work(engine))

    def test_have_stopped():
        assert not gone_on
"""


@pytest.mark.parametrize("scope", ["function", "module"])
def test_a_test_that_pytest_timeout_ends_does_not_go_on(suite, untraced, nobody_looks, scope):
    """Its own code is run no further, and is no background task; one that it has begun is, and is told beside its failure."""
    run = suite(
        LIMITED,
        "-o",
        "timeout_method=signal",
        poolguard_quiesce="2",
        asyncio_default_fixture_loop_scope=scope,
        asyncio_default_test_loop_scope=scope,
    )
    failed = {name for name, result in run.results.items() if result == "failed"}
    assert failed == {"test_own", "test_beside", "test_runs_itself"}, run.text
    assert {result for name, result in run.results.items() if name not in failed} == {"passed"}, run.text
    assert run.blamed == {}
    told = {name: text.count("held by a background task") for name, text in run.sections.items()}
    assert {name for name, count in told.items() if count} == {"test_beside"}, run.sections
    assert told["test_beside"] == 1


def test_a_test_that_is_run_again_forgets(suite):
    """What the first run was told is not in the reports of the second; what others have noted of the test is."""
    run = suite(
        """
    async def test_it(engine, request):
        request.node.user_properties.append(("run", len(KEPT)))
        request.node.add_report_section("call", "mine", "x")
        if not KEPT:
            KEPT.append(await engine.connect())
            raise ValueError

    async def test_leaks(engine):
        if len(KEPT) < 2:
            KEPT.append(await engine.connect())

    async def test_always(engine):
        KEPT.append(await engine.connect())
    """,
        "--reruns=1",
        "--junitxml=report.xml",
        conftest="""
    def pytest_runtest_logreport(report):
        if report.nodeid.endswith("test_it") and report.when == "teardown" and report.passed:
            assert [title for title, _ in report.sections if "mine" in title]
            assert ("run", 0) in report.user_properties
    """,
    )
    assert {name: result for name, result in run.results.items() if result != "passed"} == {"test_always": "error"}, run.text
    assert run.sections == {}
    assert {name for name, found in run.properties.items() if found} == {"test_always"}
    assert len(run.properties["test_always"]) == 1


def test_a_test_that_is_run_again(suite):
    """Each run is judged by itself: the second, which is right, passes."""
    run = suite(
        """
    async def test_it(engine):
        KEPT.append(asyncio.create_task(slowly(engine, 60 if len(KEPT) == 0 else 0)))
        await asyncio.sleep(0.01)
    """,
        "--reruns=1",
        poolguard_quiesce="0.05",
    )
    assert run.results == {"test_it": "passed"}, run.text


def test_parameters_are_tests_of_their_own(suite):
    """Only the parameter that leaks is blamed."""
    run = suite("""
    @pytest.mark.parametrize("keep", [False, True, False])
    async def test_it(engine, keep):
        connection = await engine.connect()
        if keep:
            KEPT.append(connection)
        else:
            await connection.close()
    """)
    assert set(run.blamed) == {"test_it[True]"}


def test_unittest(suite):
    """The asyncio tests of unittest are judged likewise."""
    run = suite("""
    import unittest

    class TestAll(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            self.engine = new_engine()
            self.session = AsyncSession(self.engine)

        async def asyncTearDown(self):
            await self.session.close()

        async def test_one(self):
            await self.session.execute(SELECT)

        async def test_two(self):
            KEPT.append(await self.engine.connect())

        async def test_three(self):
            await slowly(self.engine, 0)
    """)
    assert set(run.blamed) == {"test_two"}, run.text


def test_an_application_in_another_thread(suite):
    """Starlette's TestClient runs the application in a thread's loop: slow background work there may end; a leak is the test's."""
    run = suite(
        """
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    engine = new_engine()

    async def slow(request):
        asyncio.get_running_loop().create_task(slowly(engine, 0.1))
        return PlainTextResponse("ok")

    async def leak(request):
        KEPT.append(await engine.connect())
        return PlainTextResponse("ok")

    @pytest.fixture(scope="module")
    def client():
        with TestClient(Starlette(routes=[Route("/slow", slow), Route("/leak", leak)])) as client:
            yield client

    def test_slow(client):
        client.get("/slow")

    def test_leak(client):
        client.get("/leak")

    def test_after(client):
        client.get("/slow")
    """,
    )
    assert set(run.blamed) == {"test_leak"}, run.text
