"""What is demanded of a test: markers, modes and limits; tests that fail, run again or are cut short; what is told of whom."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")

KEEPS = "KEPT.append(await engine.connect())"
BACKGROUND = "KEPT.append(asyncio.create_task(slowly(engine, 60))); await asyncio.sleep(0.01)"


def a_test(body, mark=""):
    """Write a test; not one itself."""
    return f"\n    {mark}\n    async def test_it(engine):\n        {body}\n\n    async def test_after(engine):\n        await slowly(engine, 0)\n"


@pytest.mark.parametrize("body", [KEEPS, BACKGROUND])
def test_a_hold_may_be_allowed(suite, body):
    """The marker allows a test to hold to its end."""
    run = suite(a_test(body, "@pytest.mark.poolguard(allow_hold='a leader')"), poolguard_quiesce="0.05")
    assert run.blamed == {}, run.text
    assert set(run.results.values()) == {"passed"}


def test_an_allowed_hold_may_not_be_lost(suite):
    """To hold is allowed, to lose is not."""
    run = suite(a_test("await engine.connect()", "@pytest.mark.poolguard(allow_hold='a leader')"))
    assert set(run.blamed) == {"test_it"}, run.text


@pytest.mark.parametrize("body", [KEEPS, BACKGROUND, "await engine.connect()"])
def test_a_leak_may_be_expected(suite, body):
    """A test of a leak says so, and passes."""
    run = suite(a_test(body, "@pytest.mark.poolguard(expect_leak=True)"), poolguard_quiesce="0.05")
    assert set(run.results.values()) == {"passed"}, run.text


def test_a_leak_that_is_expected_and_does_not_come(suite):
    """Once it is mended, the marker has to go."""
    run = suite(a_test("pass", "@pytest.mark.poolguard(expect_leak=True)"))
    assert run.results == {"test_it": "error", "test_after": "passed"}
    assert "expect_leak=True, but every connection came back; remove it from the marker" in run.text


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("allow_hold=''", "pytest.mark.poolguard(allow_hold=…): '' is not allowed; allowed: a non-empty text"),
        ("allow_hold=True", "pytest.mark.poolguard(allow_hold=…): True is not allowed; allowed: a non-empty text"),
        ("expect_leak=1", "pytest.mark.poolguard(expect_leak=…): 1 is not allowed; allowed: True or False"),
        ("hold=1", "pytest.mark.poolguard(hold=…) is unknown; allowed: allow_hold, "),
        ("'why'", "pytest.mark.poolguard takes no positional argument, got 'why'; allowed: allow_hold, "),
    ],
)
def test_a_wrong_marker_is_an_error(suite, mark, message):
    """It names the argument, the value and what is allowed; the next test is not concerned."""
    run = suite(a_test("pass", f"@pytest.mark.poolguard({mark})"))
    assert run.results == {"test_it": "error", "test_after": "passed"}
    assert message in run.text


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("poolguard", "loud", "strict, warn or off"),
        ("poolguard_quiesce", "soon", "none, or a number of seconds, 0 or more"),
        ("poolguard_max_hold", "-1", "none, or a number of seconds, 0 or more"),
        ("poolguard_max_hold", "nan", "none, or a number of seconds, 0 or more"),
        ("poolguard_max_nesting", "0", "none, or a whole number, 1 or more"),
        ("poolguard_max_nesting", "1.5", "none, or a whole number, 1 or more"),
    ],
)
@pytest.mark.parametrize("where", ["ini", "command line"])
def test_a_wrong_option_is_an_error(pytester, option, value, allowed, where):
    """It names the option where it was given, the value and what is allowed."""
    pytester.makepyfile("def test_it(): pass")
    pytester.makeini(f"[pytest]\n{option if where == 'ini' else 'xfail_strict'} = {value if where == 'ini' else 'true'}\n")
    flag = f"--{option.replace('_', '-')}"
    done = pytester.runpytest_inprocess(*([] if where == "ini" else [f"{flag}={value}"]))
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    named = option if where == "ini" else flag
    done.stderr.fnmatch_lines([f"ERROR: {named}: '{value}' is not allowed; allowed: {allowed}"])


def test_warn_lets_it_pass(suite):
    """A warning says what would have failed, of the test that it is about."""
    run = suite(a_test(KEEPS), poolguard="warn")
    assert set(run.results.values()) == {"passed"}
    assert [(name, text.partition(":")[0]) for name, text in run.warnings] == [("test_it", "connection orphaned")]


def test_off_is_off(suite):
    """Nobody looks."""
    run = suite(a_test(KEEPS), poolguard="off")
    assert (set(run.results.values()), run.warnings, run.blamed) == ({"passed"}, [], {})


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


def test_a_connection_that_is_found_later_is_not_the_next_tests(suite):
    """One that is kept by a failed test's traceback, or collected in the next test, is never that one's."""
    run = suite("""
    async def test_fails(engine):
        knot = [await engine.connect()]
        knot.append(knot)
        KEPT.append(knot)
        raise ValueError

    async def test_keeps(engine):
        KEPT.append([await engine.connect()])

    async def test_collects(engine):
        KEPT.clear()
        gc.collect()
        await slowly(engine, 0)
    """)
    assert run.results == {"test_fails": "failed", "test_keeps": "error", "test_collects": "passed"}
    assert set(run.blamed) == {"test_keeps"}


def test_tasks_that_are_left_over_are_not_the_next_tests(suite):
    """In a loop of the module, what an earlier test's task checks out later, and the tasks that it begins, is not a later test's."""
    run = suite(
        """
    engine = new_engine()

    async def work():
        await asyncio.sleep(0)
        while True:
            async with asyncio.TaskGroup() as group:
                group.create_task(slowly(engine, 0.05))
                async with engine.connect():
                    await asyncio.sleep(0.05)

    async def test_begins():
        KEPT.append(asyncio.create_task(work()))

    async def test_next():
        await asyncio.sleep(0.12)

    async def test_last():
        await asyncio.sleep(0.12)
    """,
        asyncio_default_test_loop_scope="module",
        poolguard_quiesce="0.01",
    )
    assert run.blamed == {}, run.text
    assert set(run.results.values()) == {"passed"}


def test_what_comes_late_is_listed(suite):
    """What a task that outlived its test leaves later fails nobody, and is in the summary, under the test that began it."""
    told = []
    run = suite(
        """
    engine = new_engine()

    async def work():
        await asyncio.sleep(0.05)
        KEPT.append(await engine.connect())
        await engine.connect()

    async def test_begins():
        KEPT.append(asyncio.create_task(work()))

    async def test_next():
        await asyncio.sleep(0.1)
    """,
        conftest="""
    def pytest_unconfigure(config):
        from sqla_poolguard import pytest_plugin
        KEPT[:] = config.stash[pytest_plugin._DESK].tally.rows()
    """,
        asyncio_default_test_loop_scope="module",
        told=told,
    )
    assert run.blamed == {}, run.text
    assert [(kind, test) for kind, _, _, _, test, _ in told] == [
        (kind, "test_it.py::test_begins") for kind in ("left_out", "leaked")
    ]


def test_a_worker_of_a_wide_fixture_works_for_all(suite):
    """What a module's worker has out while a test ends is the worker's; what it leaves is told where its fixture ends."""
    run = suite(
        """
    import pytest_asyncio

    @pytest.fixture(scope="module")
    def engine():
        return new_engine()

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def worker(engine):
        async def work():
            while True:
                job = await jobs.get()
                KEPT.append(asyncio.create_task(job()))
        jobs = asyncio.Queue()
        task = asyncio.create_task(work())
        yield jobs
        task.cancel()

    async def test_one(worker, engine):
        worker.put_nowait(lambda: slowly(engine, 0.05))
        await asyncio.sleep(0.01)

    async def test_two(worker, engine):
        async def leave():
            KEPT.append(await engine.connect())
        worker.put_nowait(leave)
        await asyncio.sleep(0.01)

    async def test_three(worker, engine):
        await slowly(engine, 0)
    """,
        asyncio_default_test_loop_scope="module",
        poolguard_quiesce="0.01",
    )
    assert set(run.blamed) == {"test_three"}, run.text
    assert "kept by fixture 'worker' (module scope), which ended here" in run.blamed["test_three"]


def test_a_hold_may_be_declared_for_a_connection(suite):
    """An execution option, or the block in which it was checked out, excuses a connection that outlives the task that opened it."""
    run = suite(
        """
    async def test_it(engine):
        connection = await engine.connect()
        KEPT.append(await connection.execution_options(poolguard_hold="a leader"))

    async def test_block(engine):
        with allow_hold("a leader"):
            KEPT.append(await engine.connect())

    async def test_session(engine):
        session = AsyncSession(engine)
        await session.connection(execution_options={"poolguard_hold": "a leader"})
        KEPT.append(session)
    """
    )
    assert run.blamed == {}, run.text


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


def test_options_of_the_ini_file(suite):
    """`addopts` is a command line."""
    run = suite(a_test(KEEPS), addopts="--poolguard=off", poolguard="strict")
    assert set(run.results.values()) == {"passed"}


def test_a_task_of_a_fixture_may_hold(suite):
    """A worker that its fixture ends, with the test, is not the test's background task; nor is what is under way on a module's loop."""
    run = suite("""
    @pytest.fixture
    async def worker(engine):
        task = asyncio.create_task(slowly(engine, 60))
        await asyncio.sleep(0.01)
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def test_it(worker):
        pass
    """)
    assert run.blamed == {}, run.text


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


def test_a_test_that_pytest_timeout_ends(suite):
    """It has failed, and what it had out is nobody's fault."""
    run = suite(a_test("await slowly(engine, 60)", "@pytest.mark.timeout(0.3)"), "-o", "timeout_method=signal")
    assert run.results == {"test_it": "failed", "test_after": "passed"}, run.text
    assert run.blamed == {}


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


def test_held_too_long(suite):
    """`poolguard_max_hold` bounds what a test checks out; a fixture's session may be out for longer."""
    run = suite(
        """
    @pytest.fixture
    async def connection(engine):
        async with engine.connect() as connection:
            yield connection

    async def test_long(engine):
        await slowly(engine, 0.1)

    async def test_short(engine, connection):
        await slowly(engine, 0)
        await asyncio.sleep(0.1)

    @pytest.mark.poolguard(allow_hold="a cursor")
    async def test_allowed(engine):
        await slowly(engine, 0.1)
    """,
        poolguard_max_hold="0.05",
    )
    assert set(run.blamed) == {"test_long"}, run.text
    assert "poolguard_max_hold is 0.05 s" in run.blamed["test_long"]


def test_nested(suite):
    """`poolguard_max_nesting` bounds what one task has out of one pool; sessions side by side in tasks are not nested."""
    run = suite(
        """
    async def test_nested(engine):
        async with engine.connect():
            await slowly(engine, 0)

    async def test_side_by_side(engine):
        await asyncio.gather(slowly(engine, 0.01), slowly(engine, 0.01))

    async def test_two_pools(engine):
        async with engine.connect():
            await slowly(new_engine(), 0)
    """,
        poolguard_max_nesting="1",
    )
    assert set(run.blamed) == {"test_nested"}, run.text
    assert "it had 1 already" in run.blamed["test_nested"]
