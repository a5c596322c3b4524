"""Threads that serve all tests, and threads that a test has left over: whose is what is checked out in them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from sqla_poolguard._testing.left_over import LeftOver
from sqla_poolguard._testing.stays import Owner

LEAK = """
    import threading, time
    engine = new_engine(pool_size=20)

    async def leave():
        KEPT.append(await engine.connect())
"""


@pytest.mark.parametrize("begun", ["t.start(); yield", "t.start(); time.sleep(0.1); yield"])
def test_workers_that_never_rest(suite, begun):
    """There is always a connection out, and none for long: whoever ends meanwhile has left none, even before the workers had begun."""
    run = suite(
        LEAK
        + f"""
    @pytest.fixture(scope="session", autouse=True)
    def workers():
        over = threading.Event()
        async def consume():
            while not over.is_set():
                await slowly(engine, 0.005)
        async def work():
            await asyncio.gather(*(consume() for _ in range(3)))
        t = threading.Thread(target=lambda: asyncio.run(work()))
        {begun}
        over.set()
        t.join()

    @pytest.mark.parametrize("number", range(5))
    def test_ok(number):
        time.sleep(0.02)
    """
    )
    assert run.blamed == {}, run.text
    assert set(run.results.values()) == {"passed"}


SERVICES = {
    "a loop that runs for ever": """
    loops = []
    def run(coroutine):
        if not loops:
            loops.append(asyncio.new_event_loop())
            def serve():
                loops[0].run_forever()
            threading.Thread(target=serve, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, loops[0]).result()
    """,
    "multiprocessing's pool": """
    from multiprocessing.pool import ThreadPool
    pools = []
    def run(coroutine):
        if not pools:
            pools.append(ThreadPool(1))
        return pools[0].apply(asyncio.run, (coroutine,))
    """,
}


@pytest.mark.parametrize("service", SERVICES)
def test_a_thread_that_serves_is_not_its_first_users(suite, service):
    """Whichever test has used it first: a later one that leaves a connection there is blamed."""
    run = suite(
        LEAK
        + SERVICES[service]
        + """
    def test_first():
        run(slowly(engine, 0))

    def test_leaves():
        run(leave())

    def test_last():
        run(slowly(engine, 0))
    """
    )
    assert set(run.blamed) == {"test_leaves"}, run.text


BEGUN_ELSEWHERE = {
    "a timer that is set anew": """
    def beat():
        asyncio.run(leave())
        if not over.is_set():
            begin()
    def begin():
        timer = threading.Timer(0.05, beat)
        threads.append(timer)
        timer.start()
    """,
    "a thread that begins others": """
    def work():
        for _ in range(4):
            time.sleep(0.05)
            threads.append(threading.Thread(target=asyncio.run, args=(leave(),)))
            threads[-1].start()
    def begin():
        threads.append(threading.Thread(target=work))
        threads[-1].start()
    """,
}


@pytest.mark.parametrize("kind", BEGUN_ELSEWHERE)
def test_what_a_left_over_thread_begins(suite, kind):
    """It is the same test's; no other is blamed."""
    run = suite(
        LEAK
        + BEGUN_ELSEWHERE[kind]
        + """
    over, threads = threading.Event(), []

    def test_guilty():
        begin()

    @pytest.mark.parametrize("number", range(3))
    def test_innocent(number):
        time.sleep(0.1)

    def test_last():
        over.set()
        for thread in threads:
            thread.join()
    """,
        poolguard_quiesce="0.01",
    )
    assert set(run.blamed) <= {"test_guilty"}, run.text
    assert [run.results[f"test_innocent[{number}]"] for number in range(3)] == ["passed"] * 3


def test_a_thread_that_was_there_before_a_wide_fixture(suite):
    """It is not the fixture's, which is set up after the test has begun it."""
    run = suite(
        LEAK
        + """
    @pytest.fixture(scope="module")
    def wide():
        yield

    def test_guilty(request):
        def work():
            for _ in range(3):
                time.sleep(0.1)
                asyncio.run(leave())
        KEPT.append(threading.Thread(target=work))
        KEPT[0].start()
        request.getfixturevalue("wide")

    @pytest.mark.parametrize("number", range(3))
    def test_innocent(number):
        time.sleep(0.11)

    def test_last():
        KEPT[0].join()
    """,
        poolguard_quiesce="0.01",
    )
    assert set(run.blamed) <= {"test_guilty"}, run.text
    assert [run.results[f"test_innocent[{number}]"] for number in range(3)] == ["passed"] * 3


def test_a_runner_whose_task_was_cut_off(suite, untraced):
    """Its tasks share one context: what the next tests do in it is theirs."""
    run = suite(
        LEAK
        + """
    @pytest.fixture(scope="module")
    def runner():
        with asyncio.Runner() as runner:
            yield runner

    @pytest.mark.timeout(0.3, method="signal")
    def test_slow(runner):
        runner.run(asyncio.sleep(3))

    def test_leaves(runner):
        runner.run(leave())

    def test_ok(runner):
        runner.run(slowly(engine, 0))
    """
    )
    assert set(run.blamed) == {"test_leaves"}, run.text
    assert run.results["test_slow"] == "failed"


def test_a_thread_that_takes_another_ones_place(suite):
    """A thread that nobody saw begin, while another one ended, is its test's, too."""
    run = suite("""
    import _thread, threading

    go_on, done, end, is_there = (threading.Event() for _ in range(4))

    def native():
        threading.current_thread()
        is_there.set()
        go_on.wait()
        asyncio.run(leak())
        done.set()

    async def leak():
        KEPT.append(await new_engine().connect())

    @pytest.fixture(scope="module")
    def earlier():
        thread = threading.Thread(target=end.wait)
        thread.start()
        return thread

    def test_before(earlier):
        pass

    def test_guilty(earlier):
        end.set()
        earlier.join()
        _thread.start_new_thread(native, ())
        is_there.wait()

    def test_innocent():
        go_on.set()
        done.wait()
    """)
    assert run.results["test_innocent"] == "passed", run.text
    assert run.blamed == {}


def test_a_loop_that_another_thread_runs_is_looked_at_again():
    """What it is going to call changes while it is looked at."""

    class Changing(list):
        looks = 0

        def __bool__(self):
            return True

        def __iter__(self):
            self.looks += 1
            if self.looks < 3:
                message = "deque mutated during iteration"
                raise RuntimeError(message)
            return super().__iter__()

    loop, left_over = asyncio.new_event_loop(), LeftOver()
    with contextlib.closing(loop):
        loop.call_later(60, print)
        loop._ready, ready = Changing(), loop._ready
        left_over.add_loop(loop)
        left_over.mark(Owner("test_it"))
        assert loop._ready.looks == 3
        loop._ready = ready
