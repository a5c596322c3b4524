"""The garbage collector may come at any instruction, in any thread, inside any greenlet; no waiter sleeps through it."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import at_rest, ended, engine, pool_of, queue_up, rejected
from doubles.virtual import elapsed, turns

from sqla_poolguard import CheckoutTimeout, _fastlane
from sqla_poolguard._handover import Handover
from sqla_poolguard._waiters import Waiters

LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"


@pytest.mark.filterwarnings(LEAK)
async def test_garbage_collector_in_another_thread_wakes_a_waiter():
    """A leak that is collected in another thread frees its slot at once for a task that waits in the loop."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=30)
    held = [await db.connect()]
    held.append(held)
    order = []
    gc.disable()
    try:
        tasks = await queue_up(db, order, "waiting")
        del held
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
    finally:
        gc.enable()
    await asyncio.gather(*tasks)
    assert order == ["waiting"]
    assert elapsed() == 0.0
    assert ended(db) == {"leaked": 1, "checked_in": 1}
    at_rest(db, idle=1)


async def test_slot_that_is_freed_while_waiters_are_turned_away(monkeypatch):
    """A slot freed (by another thread, by the collector) while the sweep takes out its second waiter serves it; the first is told."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=5)
    held = await db.connect()
    order, seen = [], []
    tasks = await queue_up(db, order, "first", "second")
    remove = Waiters.remove

    def interrupted(waiters, waiter):
        seen.append(waiter)
        if len(seen) == 2:
            held.sync_connection.close()
        return remove(waiters, waiter)

    monkeypatch.setattr(Waiters, "remove", interrupted)
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert (type(first), second, order) == (CheckoutTimeout, None, ["second"])
    assert elapsed() == 5.0
    assert rejected(db) == {"timeout": 1}
    at_rest(db, idle=1)


async def test_waiter_that_is_cancelled_while_it_is_served(monkeypatch):
    """Asyncio's handler of ctrl-C cancels at any instruction: what was just to be handed over goes to the next, or back."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=5)
    held = await db.connect()
    order = []
    first, second = await queue_up(db, order, "first", "second")
    deliver = Handover._deliver

    def interrupted(handover, waiter, given):
        first.cancel()
        return deliver(handover, waiter, given)

    monkeypatch.setattr(Handover, "_deliver", interrupted)
    await held.close()
    await second
    assert first.cancelled()
    assert order == ["second"]
    at_rest(db, idle=1)


@pytest.mark.filterwarnings(LEAK)
async def test_garbage_collector_closes_nothing_that_needs_a_greenlet():
    """A collected leak frees its slot; closing somebody else's surplus connection is left to those who can await."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=2)
    leaked, one, two = [await db.connect() for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:  # another thread puts them down, and is interrupted before it settles
        patch.setattr(Handover, "settle", lambda handover, giver: None)
        one.sync_connection.close()
        two.sync_connection.close()
    closes = driver.begun["close"]
    del leaked
    gc.collect()
    assert (driver.begun["close"], driver.open_now, pool_of(db).checkedin()) == (closes, 2, 2)
    await greenlet_spawn(pool_of(db)._handover.settle)
    at_rest(db, idle=1)
    assert driver.open_now == 1


@pytest.mark.filterwarnings(LEAK)
@pytest.mark.parametrize("close", [Gate.OK, Gate.SLOW, Gate.NEVER])
async def test_collector_inside_a_greenlet_awaits_nothing(close):
    """A leak that is collected inside one of SQLAlchemy's greenlets is cut off at once, before its slot is used again."""
    driver = FakeDriver(close=close)
    db = engine(driver, pool_size=1, max_overflow=0)
    held = [await db.connect()]
    held.append(held)
    order = []
    tasks = await queue_up(db, order, "waiting")
    del held
    collecting = greenlet_spawn(gc.collect)
    with pytest.raises(StopIteration):
        collecting.send(None)  # it suspended nowhere
    await asyncio.gather(*tasks)
    assert order == ["waiting"]
    assert (driver.most, elapsed()) == (1, 0.0)
    assert ended(db) == {"leaked": 1, "checked_in": 1}
    driver.close = Gate.OK
    await turns()
    at_rest(db, idle=1)


@pytest.mark.parametrize("lane", ["fast"], indirect=True)
async def test_collector_when_the_interpreter_has_taken_the_module_apart(monkeypatch):
    """What is collected last of all finds nothing that it could call, and says nothing."""
    driver = FakeDriver()
    db = engine(driver)
    held = await db.connect()
    record = held.sync_connection._dbapi_connection._connection_record
    for name in [name for name, value in vars(_fastlane).items() if callable(value) and name != "_collected"]:
        monkeypatch.setitem(vars(_fastlane), name, None)
    del held
    gc.collect()  # an error here would be told by pytest
    assert (record.fairy_ref(), driver.open_now) == (None, 1)


@pytest.mark.filterwarnings(LEAK)
async def test_collector_while_a_waiter_is_cancelled():
    """A slot that a leak frees in the moment in which the only waiter is cancelled is free afterwards."""
    db = engine(pool_size=1, max_overflow=0)
    held = [await db.connect()]
    held.append(held)
    (gone,) = await queue_up(db, [], "gone")
    del held
    gone.cancel()
    gc.collect()
    await asyncio.wait([gone])
    at_rest(db, idle=0)
    async with db.connect():
        pass
    at_rest(db, idle=1)
