"""The thread that has connections looked at: what stands still accuses nobody, and the thread outlives loops, forks and errors."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref

import pytest
from scenarios.stage import BLOCKED, HELD, LONG, ONE, PATIENCE, Findings
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import Guard, GuardedPool
from sqla_poolguard._ticker import PAUSE, Beat, Ticker, ticker

pytestmark = pytest.mark.postgres


def engine(url, findings):
    """Make an engine that looks closely."""
    guard = Guard(await_warning=PATIENCE, hold_warning=None, observers=(findings,))
    return create_async_engine(url, poolclass=GuardedPool, guard=guard)


async def test_no_thread_to_be_had(monkeypatch, caplog):
    """Where the system has no thread to give, nobody looks, which is told once; no checkout fails, and no slot is lost."""

    def refuse(_):
        message = "can't start new thread"
        raise RuntimeError(message)

    own = Ticker()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    sampler = type("Sampler", (), {"pause": 0.1})
    for _ in range(3):
        assert own.wake(sampler, asyncio.get_running_loop()) is own.beat_of(asyncio.get_running_loop())
    assert own._thread is None
    assert [record.getMessage() for record in caplog.records] == ["connections are not looked at: can't start new thread"]


def test_stopped_loop_is_not_blocked(postgres_url):
    """A loop that is stopped for a while, and goes on, was blocked by nobody."""
    findings = Findings()
    with asyncio.Runner() as runner:
        db = engine(postgres_url, findings)
        connection = runner.run(db.connect().__aenter__())
        runner.run(connection.execute(ONE))
        time.sleep(LONG)
        runner.run(connection.close())
        beat = ticker.beat_of(runner.get_loop())
        assert beat is None or beat.blocked_lately() is None
        runner.run(db.dispose())
    assert BLOCKED not in {finding.kind for finding in findings.all}


def test_loops_in_several_threads(postgres_url):
    """Each thread's loop has a beat of its own."""
    found = {}

    async def hold(name):
        findings = Findings()
        db = engine(postgres_url, findings)
        async with db.connect() as connection:
            await connection.execute(ONE)
            await asyncio.sleep(LONG)
        await db.dispose()
        found[name] = [finding.kind for finding in findings.all]

    threads = [threading.Thread(target=lambda name=name: asyncio.run(hold(name))) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [HELD] for name in range(3)}


def test_closed_loop_is_let_go(postgres_url):
    """A loop that was closed is not kept alive by those who looked at it."""
    loop = asyncio.new_event_loop()

    async def use():
        db = engine(postgres_url, Findings())
        async with db.connect() as connection:
            await connection.execute(ONE)
        await db.dispose()

    loop.run_until_complete(use())
    loop.close()
    reference = weakref.ref(loop)
    del loop
    until = time.monotonic() + 10
    while time.monotonic() < until:
        gc.collect()
        if reference() is None:
            return
        time.sleep(0.05)
    pytest.fail("the loop is still there")


request = contextvars.ContextVar("request", default=None)


class Sampler:
    """Counts how often it is woken."""

    pause = 0.01

    def __init__(self, takes=0.0):
        self.woken = 0
        self.context = None
        self.blocked = []
        self.takes = takes
        self.rests = 0

    def sample(self, _beat, blocked):
        """Be woken."""
        self.woken += 1
        self.context = request.get()
        self.blocked += [blocked] * (blocked is not None)
        until = time.monotonic() + self.takes
        while time.monotonic() < until:  # a sleep would make way for the thread
            pass
        return True

    def rest(self):
        """Know that nobody looks any more."""
        self.rests += 1


async def test_thread_outlives_an_error(monkeypatch, caplog):
    """A bug in one loop's beat is logged, and ends that beat, not the thread; the next checkout begins again."""
    own, sampler, real = Ticker(), Sampler(), Beat.tick

    def broken(self, now, overslept):
        if self.loop is asyncio_loop and not broken.done:
            broken.done = True
            raise ValueError
        return real(self, now, overslept)

    asyncio_loop, broken.done = asyncio.get_running_loop(), False
    monkeypatch.setattr(Beat, "tick", broken)
    own.wake(sampler, asyncio_loop)
    async with asyncio.timeout(5):
        while own.beat_of(asyncio_loop) is not None:
            await asyncio.sleep(0.01)
        own.wake(sampler, asyncio_loop)
        while not sampler.woken:
            await asyncio.sleep(0.01)
    assert [record.getMessage() for record in caplog.records] == ["bug: a loop is not looked at any more"]
    own.drop(own.beat_of(asyncio_loop))


async def test_the_first_look_comes_after_one_pause():
    """A pool that looks closely does so from the beginning."""
    own, sampler, loop = Ticker(), Sampler(), asyncio.get_running_loop()
    began = time.monotonic()
    beat = own.wake(sampler, loop)
    assert beat._due_at - began < PAUSE / 2
    own.drop(beat)


def test_a_loop_that_was_stopped_is_blocked_from_then_on():
    """A loop that is run again, and blocked at once, was not blocked for as long as it had been stopped."""
    own, sampler = Ticker(), Sampler()
    sampler.pause = PAUSE

    async def begin():
        own.wake(sampler, asyncio.get_running_loop())
        await asyncio.sleep(PAUSE / 2)

    async def block():
        time.sleep(4 * PAUSE)
        await asyncio.sleep(2 * PAUSE)

    with asyncio.Runner() as runner:
        runner.run(begin())
        time.sleep(10 * PAUSE)
        runner.run(block())
        beat = own.beat_of(runner.get_loop())
        own.drop(beat)
    (blocked,) = sampler.blocked
    assert blocked.seconds < 9 * PAUSE
    assert blocked.sightings[0].site.function == block.__qualname__
    assert beat.lag > 9 * PAUSE, "what stood still is nobody's await, for whatever reason"


async def test_a_loop_whose_time_is_not_real_is_not_looked_at():
    """Where an hour passes in no time, in a test, one would look at it 36,000 times."""
    own, sampler, loop = Ticker(), Sampler(), asyncio.get_running_loop()
    own.wake(sampler, loop)._due_at += 3600
    async with asyncio.timeout(5):
        while own.beat_of(loop) is not None:
            await asyncio.sleep(0.01)
    assert (sampler.woken, sampler.rests) == (0, 1), "the next checkout tries again"


@pytest.mark.parametrize("takes", [0.0, 0.001])
async def test_a_loop_that_never_rests_is_looked_at(monkeypatch, takes):
    """
    Where tasks are always ready, a loop hardly lets a thread run: it is looked at by its own timer, and makes way for the thread.

    Of the time that the thread waits for it, the loop stands still for none.
    """
    own, sampler, loop, seen = Ticker(), Sampler(takes), asyncio.get_running_loop(), []
    real = Beat.tick
    monkeypatch.setattr(Beat, "tick", lambda self, *arguments: seen.append(self) or real(self, *arguments))
    beat = own.wake(sampler, loop)
    until = time.monotonic() + 1

    async def work():
        while time.monotonic() < until:
            sum(range(200))
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(200)))
    own.drop(beat)
    assert sampler.woken > 25
    assert len(seen) > 10
    assert beat.lag < 0.5


async def test_a_beat_is_nobodys():
    """It begins in a request, and has nothing of its context; once it is dropped it comes no more."""
    own, sampler, loop = Ticker(), Sampler(), asyncio.get_running_loop()
    request.set("mine")
    own.wake(sampler, loop)
    async with asyncio.timeout(5):
        while not sampler.woken:
            await asyncio.sleep(0.01)
    assert sampler.context is None
    own.drop(own.beat_of(loop))
    woken = sampler.woken
    await asyncio.sleep(0.05)
    assert sampler.woken == woken
