"""Tasks and connections that outlive their test: they are not the next one's."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")


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
    assert "begun by fixture 'worker' (module scope), which ended here" in run.blamed["test_three"]


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
