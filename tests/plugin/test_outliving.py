"""What outlives a test without being a task: timers, threads, connections that a framework's one task has; and a clock that stands still."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")

ON_ONE_LOOP = {"asyncio_default_fixture_loop_scope": "session", "asyncio_default_test_loop_scope": "session"}


def test_a_timer_that_is_left_over_is_not_the_next_tests(suite):
    """What it begins is the test's that has set it, and so is the timer that it sets anew."""
    run = suite(
        """
    engine, timers = new_engine(), []

    async def test_begins():
        loop = asyncio.get_running_loop()
        def fire():
            KEPT.append(loop.create_task(slowly(engine, 2)))
            timers[:] = [loop.call_later(0.05, fire)]
        fire()
        await asyncio.sleep(0.01)

    async def test_next():
        await asyncio.sleep(0.12)

    def test_without_a_loop():
        pass

    async def test_last():
        await asyncio.sleep(0.12)
        timers.pop().cancel()
        for task in KEPT:
            task.cancel()
        await asyncio.wait(KEPT)
    """,
        poolguard_quiesce="0.01",
        **ON_ONE_LOOP,
    )
    assert set(run.blamed) == {"test_begins"}, run.text


def test_a_timer_of_a_wide_fixture_works_for_all(suite):
    """Whoever fires, forgets, and waits at the end is right."""
    run = suite(
        """
    engine = new_engine()

    @pytest.fixture(scope="session", autouse=True)
    async def repeat():
        loop, stop, running = asyncio.get_running_loop(), asyncio.Event(), []
        async def job():
            async with engine.connect() as connection:
                await connection.execute(SELECT)
                await stop.wait()
            running.pop()
        def fire():
            running.append(1)
            KEPT.append(loop.create_task(job()).get_name())
        loop.call_later(0.02, fire)
        yield
        stop.set()
        while running:
            await asyncio.sleep(0.01)

    async def test_one():
        while not KEPT:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        assert snapshot(engine).used == 1

    async def test_two():
        await asyncio.sleep(0.01)
    """,
        **ON_ONE_LOOP,
    )
    assert run.blamed == {}, run.text
    assert set(run.results.values()) == {"passed"}, run.text


def test_a_thread_that_is_left_over_is_not_the_next_tests(suite):
    """Nor is what it does in event loops of its own."""
    run = suite("""
    import threading, time
    engine, stop = new_engine(), threading.Event()

    def test_begins():
        def work():
            while not stop.is_set():
                asyncio.run(slowly(engine, 0.05))
        KEPT.append(threading.Thread(target=work))
        KEPT[0].start()
        while not snapshot(engine).used:
            time.sleep(0.001)

    @pytest.mark.parametrize("number", range(5))
    def test_next(number):
        time.sleep(0.03)

    def test_last():
        stop.set()
        KEPT.pop().join()
    """)
    assert set(run.blamed) <= {"test_begins"}, run.text
    assert {name: result for name, result in run.results.items() if name != "test_begins"} == {
        **{f"test_next[{number}]": "passed" for number in range(5)},
        "test_last": "passed",
    }


def test_a_wide_fixtures_thread_serves_the_test_that_runs(suite):
    """What a server's thread checks out and loses is the test's that has asked it to."""
    run = suite("""
    import queue, threading

    @pytest.fixture(scope="module")
    def serve():
        jobs, done = queue.Queue(), queue.Queue()
        def work():
            with asyncio.Runner() as runner:
                while (job := jobs.get()) is not None:
                    done.put(runner.run(job()))
        thread = threading.Thread(target=work)
        thread.start()
        yield lambda job: (jobs.put(job), done.get())
        jobs.put(None)
        thread.join()

    engine = new_engine()

    def test_innocent(serve):
        serve(lambda: slowly(engine, 0))

    def test_guilty(serve):
        async def leave():
            KEPT.append(await engine.connect())
        serve(leave)

    def test_next(serve):
        serve(lambda: slowly(engine, 0))
    """)
    assert set(run.blamed) == {"test_guilty"}, run.text


def test_what_an_earlier_test_holds_is_not_held_by_the_next(suite, pytester):
    """Where a framework runs all tests and fixtures in one task: neither does it forbid calls there, nor does it count as nested."""
    pytester.makeini("")
    run = suite(
        """
    pytestmark = pytest.mark.anyio
    engine = new_engine()

    @pytest.fixture(scope="module")
    def anyio_backend():
        return "asyncio"

    @pytest.fixture(scope="module")
    async def shared(anyio_backend):
        yield

    @pytest.fixture
    async def open_one():
        async with engine.connect() as connection:
            yield connection

    @pytest.mark.poolguard(allow_hold="the leader's lock is kept")
    async def test_keeps(shared):
        KEPT.append(await engine.connect())

    async def test_sleeps(shared):
        await asyncio.sleep(0.001)

    async def test_has_one(shared):
        async with engine.connect() as connection:
            await connection.execute(SELECT)

    async def test_has_one_beside_its_fixtures(shared, open_one):
        async with engine.connect() as connection:
            await connection.execute(SELECT)

    async def test_has_two(shared):
        async with engine.connect(), engine.connect():
            pass

    async def test_calls(shared):
        async with engine.connect():
            await asyncio.sleep(0.001)
    """,
        asyncio_mode="strict",
        poolguard_forbidden_calls="asyncio:sleep",
        poolguard_max_nesting="1",
    )
    assert set(run.blamed) == {"test_has_two"}, run.text
    assert {name for name, result in run.results.items() if result != "passed"} == {"test_has_two", "test_calls"}, run.text


STOPPED = """
    import sys, time

    @pytest.fixture(params=[False, True], ids=["clock", "clocks"])
    async def stopped(monkeypatch, request):
        # as libraries do that stop the time: wherever the function stands in a module
        real, at = time.monotonic, time.monotonic()
        for module in list(sys.modules.values()):
            for name, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
                if value is real and not module.__name__.startswith(("asyncio", "_pytest", "pytest")):
                    monkeypatch.setattr(module, name, lambda: at)
        if request.param:
            monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: at)
"""


def test_a_clock_that_stands_still_does_not_stop_us(suite):
    """The time that tasks have to end is real time, whatever a test has done to its clocks."""
    run = suite(
        STOPPED
        + """
    async def test_leaves_a_task(engine, stopped):
        async def hold():
            async with engine.connect():
                await asyncio.Event().wait()
        KEPT.append(asyncio.create_task(hold()))
        while not snapshot(engine).used:
            await asyncio.sleep(0)
    """,
        poolguard_quiesce="0.1",
    )
    assert set(run.blamed) == {"test_leaves_a_task[clock]", "test_leaves_a_task[clocks]"}, run.text


def test_who_is_still_asking_at_the_end(suite):
    """A task that is about to get a connection when its test ends gets it, and is judged like any other."""
    run = suite("""
    async def keep(engine):
        async with engine.connect():
            await asyncio.Event().wait()

    async def lose(engine):
        await engine.connect()

    @pytest.mark.parametrize("job", [keep, lose, lambda engine: slowly(engine, 0)], ids=["keep", "lose", "right"])
    async def test_asks(job):
        KEPT.append(asyncio.create_task(job(FakeDriver(connect="slow", delay=0.1).engine())))
        await asyncio.sleep(0)

    def test_next():
        pass
    """)
    assert set(run.blamed) == {"test_asks[keep]", "test_asks[lose]"}, run.text


def test_a_wide_fixture_with_more_than_can_be_looked_through(suite, monkeypatch):
    """It may keep the connection: its end tells."""
    monkeypatch.setattr("sqla_poolguard._testing.keeping._MOST_REACHED", 1000)
    run = suite(
        """
    class App:
        def __init__(self):
            self.cache = [[number] for number in range(5000)]
            self.inner = [[[]]]

    engine = new_engine()

    @pytest.fixture(scope="module", params=[True, False], ids=["closes", "forgets"])
    async def app(request):
        app = App()
        yield app
        if request.param:
            for connection in app.inner[0][0]:
                await connection.close()

    async def test_uses(app):
        app.inner[0][0].append(await engine.connect())

    async def test_next(app):
        await slowly(engine, 0)
    """,
        asyncio_default_fixture_loop_scope="module",
        asyncio_default_test_loop_scope="module",
    )
    assert "test_uses[closes]" not in run.blamed, run.text
    assert "test_uses[forgets]" in run.blamed, run.text
