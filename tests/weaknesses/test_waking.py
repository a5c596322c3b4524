"""Who waits is woken by whatever frees a slot: a connect that failed, one that was cancelled, a leak collected elsewhere."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections import Counter

import pytest
import sqlalchemy.exc
from doubles.driver import FakeDriver, Gate
from doubles.pools import engine
from doubles.virtual import NobodyWakesUsError, VirtualLoop, elapsed, turns
from weaknesses.rivals import both

from sqla_poolguard._testing import clock


class DownDriver(FakeDriver):
    """A driver whose server refuses, after a while."""

    async def through(self, step):
        """Fail every connect after 50 ms."""
        if step == "connect":
            await asyncio.sleep(0.05)
            self.connect = Gate.ERROR
        await super().through(step)


@both("D: a connect that fails wakes nobody: those who wait learn nothing until pool_timeout")
async def test_database_down_is_told_to_all(pool):
    """D: with the database down, 20 callers on 5 connections all learn of its error: at once, or when it has lasted for a second."""
    db, seen = engine(DownDriver(), pool=pool, pool_size=5, max_overflow=0, pool_timeout=2), Counter()

    async def ask():
        try:
            async with db.connect():
                pass
        except (OSError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError) as error:
            seen[type(error.__cause__ or error).__name__, elapsed() < 1.1] += 1

    await asyncio.gather(*(ask() for _ in range(20)))
    assert seen == {("OSError", True): 20}


@both("D2: a connect that is cancelled wakes nobody")
async def test_cancelled_connect_wakes_the_next(pool):
    """D2: when the caller who connects is cancelled, the one who waits for the slot connects at once."""
    driver = FakeDriver(connect=Gate.SLOW, delay=0.05)
    db = engine(driver, pool=pool, pool_size=1, max_overflow=0, pool_timeout=1)

    async def ask():
        async with db.connect():
            return elapsed()

    connecting = asyncio.create_task(ask())
    waiting = asyncio.create_task(ask())
    await turns()
    assert driver.connecting == 1
    connecting.cancel()
    assert await waiting < 0.1


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
@both("E: a slot freed in another thread does not wake the loop in which somebody waits", NobodyWakesUsError, hold_warning=None)
def test_garbage_collector_in_another_thread_wakes_the_loop(pool, monkeypatch):
    """E: a leak collected in another thread, while the loop sleeps, frees its slot at once for the task that waits."""
    monkeypatch.setattr(clock, "PATIENCE", 1.5)
    monkeypatch.setattr(logging.getLogger("sqla_poolguard"), "disabled", True)  # the leak is no news for the end of the run
    driver = FakeDriver()
    db = engine(driver, pool=pool, pool_size=1, max_overflow=0, pool_timeout=None)
    collector = threading.Timer(0.1, gc.collect)

    async def wait():
        held = [await db.connect()]
        held.append(held)
        del held
        collector.start()
        async with db.connect():
            return driver.opened

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(wait()) == 2
    finally:
        gc.enable()
        collector.join()
