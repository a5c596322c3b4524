"""Event loops that end: in the test's own code, in a framework's, with its fixtures. What that cuts off was left over."""

from __future__ import annotations

from asyncio import runners

WORKERS = """
    async def work(engine, seconds=60):
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            await asyncio.sleep(seconds)

    async def begin(engine, seconds=60):
        KEPT.append(asyncio.create_task(work(engine, seconds), name="worker"))
        await asyncio.sleep(0.01)

    async def opened(engine):
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            yield connection
"""
ENDINGS = """
    import unittest

    def test_run():
        asyncio.run(begin(new_engine()))

    def test_runner():
        with asyncio.Runner() as runner:
            runner.run(begin(new_engine()))

    def test_run_short():
        asyncio.run(begin(new_engine(), 0.05))

    def test_run_waits():
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(work(new_engine(), 0.01))
        asyncio.run(main())

    def test_run_cancels():
        async def main():
            await begin(new_engine())
            KEPT[-1].cancel()
            await asyncio.gather(KEPT[-1], return_exceptions=True)
        asyncio.run(main())

    def test_run_declared():
        async def main():
            with allow_hold("it listens"):
                await begin(new_engine())
        asyncio.run(main())

    @pytest.mark.poolguard(allow_hold="it listens")
    def test_run_allowed():
        asyncio.run(begin(new_engine()))

    def test_run_in_thread():
        import threading
        thread = threading.Thread(target=lambda: asyncio.run(begin(new_engine())))
        thread.start()
        thread.join()

    class TestIsolated(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            self.engine = new_engine()
            self.task = asyncio.create_task(work(self.engine))

        async def asyncTearDown(self):
            self.task.cancel()

        async def test_isolated_leaves(self):
            await begin(self.engine)

        async def test_isolated(self):
            await work(self.engine, 0)

    @pytest.fixture
    async def leaving(engine):
        await begin(engine)

    @pytest.fixture
    async def ending(engine):
        await begin(engine)
        yield
        KEPT[-1].cancel()

    async def test_fixture_leaves(leaving):
        pass

    async def test_fixture_ends(ending):
        pass

    async def test_generator_leaves(engine):
        KEPT.append(opened(engine))
        await anext(KEPT[-1])

    def test_generator_leaves_run():
        async def main():
            KEPT.append(opened(new_engine()))
            await anext(KEPT[-1])
        asyncio.run(main())

    async def test_generator_dropped(engine):
        async for _ in opened(engine):
            break

    async def test_generator(engine):
        async for _ in opened(engine):
            pass
"""
GUILTY = {
    "test_run",
    "test_runner",
    "test_run_in_thread",
    "test_isolated_leaves",
    "test_fixture_leaves",
    "test_generator_leaves",
    "test_generator_leaves_run",
}


def test_what_is_cut_off_was_left(suite):
    """Wherever the loop ends, who has left a task or a generator with a connection is blamed; who has ended it is not."""
    run = suite(WORKERS + ENDINGS, poolguard_quiesce="0.3")
    assert set(run.blamed) == GUILTY, run.text
    for name in GUILTY:
        told = run.blamed[name]
        assert "in work" in told or "in opened" in told, told
        if "generator" not in name:
            assert "connection held by a background task at the end" in told, told
            assert "by task 'worker'" in told, told
            assert "awaits asyncio sleep at test_it.py" in told, told


def test_anyio_ends_its_loop(suite):
    """Likewise of anyio, which ends its loop within the test if no async fixture is there."""
    run = suite(
        WORKERS
        + """
    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.fixture
    async def opening(engine, anyio_backend):
        yield

    @pytest.mark.anyio
    async def test_leaves():
        await begin(new_engine())

    @pytest.mark.anyio
    async def test_leaves_with_fixture(opening):
        await begin(new_engine())

    @pytest.mark.anyio
    async def test_works():
        await work(new_engine(), 0)
    """,
        asyncio_mode="strict",
        poolguard_quiesce="0.1",
    )
    assert set(run.blamed) == {"test_leaves", "test_leaves_with_fixture"}, run.text
    assert set(run.results) == {"test_leaves", "test_leaves_with_fixture", "test_works"}


def test_failed_tests_are_told_beside(suite):
    """A test that fails by itself is told of its tasks, too, and only beside its failure."""
    run = suite(
        WORKERS
        + """
    async def test_fails(engine):
        await begin(engine)
        assert not "so"

    def test_fails_run():
        async def main():
            await begin(new_engine())
            assert not "so"
        asyncio.run(main())

    async def test_skips(engine):
        await begin(engine)
        pytest.skip("so")

    async def test_fails_well(engine):
        await work(engine, 0)
        assert not "so"
    """,
        poolguard_quiesce="0.1",
    )
    assert set(run.sections) == {"test_fails", "test_fails_run"}, run.text
    for told in run.sections.values():
        assert "connection held by a background task at the end" in told
    assert set(run.blamed) == {"test_skips"}
    assert run.results["test_fails_well"] == "failed"


def test_a_limit_strikes_while_tasks_have_time(suite, untraced):
    """pytest-timeout does not hide what was found, be it while the test's code has just ended or its fixtures; later tests are none the worse."""
    run = suite(
        WORKERS
        + """
    engine = new_engine(pool_size=20)

    @pytest.fixture
    async def spawn():
        yield lambda coroutine: KEPT.append(asyncio.create_task(coroutine))
        KEPT[-1].cancel()
        await asyncio.gather(KEPT[-1], return_exceptions=True)

    async def test_warm():
        await work(engine, 0)

    @pytest.mark.timeout(0.5)
    async def test_guilty():
        await begin(engine)

    @pytest.mark.timeout(0.5)
    async def test_orphan():
        async def get():
            KEPT.append(await engine.connect())
        async def works():
            while True:
                await asyncio.sleep(0.2)  # the limit strikes while it sleeps: asyncio keeps what is raised in a callback to itself
                async with engine.connect():
                    await asyncio.sleep(0.2)
        await asyncio.create_task(get())
        KEPT.append(asyncio.create_task(works()))

    @pytest.mark.timeout(0.5)
    async def test_ended_by_fixture(spawn):
        spawn(work(engine))
        await asyncio.sleep(0)

    @pytest.mark.timeout(0.2)
    async def test_too_slow():
        await work(engine)

    async def test_after():
        await asyncio.sleep(0.2)

    async def test_last():
        await asyncio.sleep(0.07)
    """,
        poolguard_quiesce="2",
        asyncio_default_test_loop_scope="module",
        asyncio_default_fixture_loop_scope="module",
    )
    assert set(run.blamed) == {"test_guilty", "test_orphan"}, run.text
    assert run.results["test_too_slow"] == "failed"
    for told in run.blamed.values():
        assert told.startswith("sqla-poolguard: connection"), told
        assert "its tasks have to end was cut short: Timeout (>0.5s) from pytest-timeout" in told
    assert {name for name, result in run.results.items() if result == "passed"} == {
        "test_warm",
        "test_ended_by_fixture",
        "test_after",
        "test_last",
    }


def test_a_loop_that_does_not_run_on(suite):
    """One that is stopped, or that another thread runs by then, is judged as it is."""
    run = suite(
        WORKERS
        + """
    class Taken(asyncio.SelectorEventLoop):
        is_taken = False

        def _check_running(self):
            if self.is_taken:
                raise RuntimeError("This event loop is already running")
            super()._check_running()

    async def test_stops(engine):
        await begin(engine)
        asyncio.get_running_loop().call_later(0.02, asyncio.get_running_loop().stop)

    def test_taken():
        async def get():
            async def wait():
                async with engine.connect():
                    await asyncio.sleep(60)
            KEPT.append(loop.create_task(wait()))
            await asyncio.sleep(0.01)
        engine, loop = new_engine(), Taken()
        KEPT.append(loop)
        loop.run_until_complete(get())
        loop.is_taken = True  # as another thread does between the question whether it runs and our running it

    def test_closes_it():
        loop = next(loop for loop in KEPT if isinstance(loop, Taken))
        loop.is_taken = False
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
        loop.close()

    async def test_after(engine):
        await work(engine, 0)
    """,
        poolguard_quiesce="0.2",
    )
    assert set(run.blamed) == {"test_stops", "test_taken"}, run.text
    for told in run.blamed.values():
        assert "connection held by a background task at the end" in told
    assert run.results["test_after"] == "passed"


def test_asyncio_is_left_as_it_was(suite):
    """Nothing stands in asyncio's way when the run is over."""
    step = runners._cancel_all_tasks
    run = suite(WORKERS + "    def test_it():\n        asyncio.run(work(new_engine(), 0))\n")
    assert run.results == {"test_it": "passed"}
    assert runners._cancel_all_tasks is step
    assert not hasattr(step, "__wrapped__")
