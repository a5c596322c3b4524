"""`GuardedPool.resize()`: at once where the pool grows, by attrition where it shrinks, from any thread or none."""

from __future__ import annotations

import asyncio
import threading

import pytest
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import all_out, at_rest, engine, ledger_of, pool_of, queue_up
from doubles.virtual import elapsed, turns

from sqla_poolguard import Guard


async def from_the_loop(db, *bounds):
    """Resize as a coroutine would."""
    pool_of(db).resize(*bounds)


async def from_a_thread(db, *bounds):
    """Resize in another thread, which is at its end then."""
    thread = threading.Thread(target=pool_of(db).resize, args=bounds)
    thread.start()
    thread.join()


async def from_a_greenlet(db, *bounds):
    """Resize in code that SQLAlchemy runs, such as a listener's."""
    await greenlet_spawn(pool_of(db).resize, *bounds)


anywhere = pytest.mark.parametrize("resize", [from_the_loop, from_a_thread, from_a_greenlet])


@anywhere
async def test_who_waits_gets_the_new_slots(resize):
    """A pool that grows serves its waiters in order, in a few turns of their own loop; nothing has come back for it."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0)
    order = []
    async with all_out(db, 1):
        tasks = await queue_up(db, order, *range(4), hold=1.0)
        await resize(db, 2, 1)
        await turns()
        assert order == [0, 1]
        assert driver.open_now == 3
        ledger_of(db).check()
        await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]
    at_rest(db, idle=2)


@anywhere
async def test_idle_connections_that_are_too_many_are_closed_now(resize):
    """Of five idle connections three are closed in their own loop, without anybody waiting for it."""
    driver = FakeDriver()
    db = engine(driver, pool_size=5)
    async with all_out(db, 5):
        pass
    await resize(db, 2, 0)
    await turns()
    assert (pool_of(db).size(), pool_of(db).snapshot().limit, driver.open_now) == (2, 2, 2)
    assert pool_of(db).status().startswith("Pool size: 2  Connections in pool: 2 Current Overflow: 0")
    at_rest(db, idle=2)


async def test_nobody_waits_for_what_is_closed():
    """`resize` itself closes nothing: right after it all are still there, three of them above the new size."""
    db = engine(pool_size=5)
    async with all_out(db, 5):
        pass
    pool_of(db).resize(2, 0)
    assert (pool_of(db).size(), pool_of(db).overflow()) == (2, 3)
    await turns()
    at_rest(db, idle=2)


async def test_connections_that_are_out_are_closed_when_they_come_back():
    """Nobody loses a connection; while more are out than may be, nobody gets one, and each that comes back is closed."""
    driver = FakeDriver()
    db = engine(driver, pool_size=4, max_overflow=1)
    out = [await db.connect() for _ in range(5)]
    order = []
    tasks = await queue_up(db, order, "waiter")
    pool_of(db).resize(1, 1)
    for number, connection in enumerate(out[:3]):
        assert order == []
        await connection.close()
        await turns()
        ledger_of(db).check()
        assert driver.open_now == 4 - number
    assert order == []
    await out[3].close()
    await asyncio.gather(*tasks)
    assert order == ["waiter"]
    await out[4].close()
    at_rest(db, idle=1)
    assert driver.open_now == 1


async def test_other_shares_of_the_same_sum():
    """Where only `pool_size` falls, idle connections above it are closed; where it rises, they are kept from then on."""
    driver = FakeDriver()
    db = engine(driver, pool_size=4, max_overflow=1)
    async with all_out(db, 5):
        pass
    pool_of(db).resize(1, 4)
    await turns()
    assert driver.open_now == 1
    pool_of(db).resize(5, 0)
    async with all_out(db, 5):
        pass
    at_rest(db, idle=5)


@pytest.mark.parametrize(
    ("size", "overflow", "message"),
    [
        (-1, 0, "pool_size=-1 is not allowed; allowed: a whole number, 0 or more"),
        (True, 0, "pool_size=True is not allowed; allowed: a whole number, 0 or more"),
        (3, 1.5, "max_overflow=1.5 is not allowed; allowed: a whole number; below 0 for no limit"),
        ("3", 1, "pool_size='3' is not allowed; allowed: a whole number, 0 or more"),
        (3, None, "max_overflow=None is not allowed; allowed: a whole number; below 0 for no limit"),
    ],
)
async def test_nonsense_is_refused_and_nothing_changes(size, overflow, message):
    """The message names the argument, its value and what is allowed; both bounds stay what they were."""
    db = engine(pool_size=2, max_overflow=3)
    with pytest.raises(ValueError, match=f"^{message}$"):
        pool_of(db).resize(size, overflow)
    assert (pool_of(db)._slots.size, pool_of(db)._slots.max_overflow, pool_of(db)._slots.limit) == (2, 3, 5)


async def test_no_limit_and_back():
    """0 lifts the limit, as in SQLAlchemy; with a limit again the pool comes back to it."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0)
    pool_of(db).resize(0, 0)
    assert pool_of(db).snapshot().limit is None
    async with all_out(db, 9):
        pool_of(db).resize(2, 1)
    await turns()
    at_rest(db, idle=2)
    assert driver.open_now == 2


async def test_an_engine_that_is_disposed_of_keeps_the_new_size():
    """`dispose()` makes a pool of the size in force, and closes what is out of the old one when it comes back."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0)
    out = [await db.connect() for _ in range(2)]
    pool_of(db).resize(1, 2)
    old = pool_of(db)
    await db.dispose()
    assert (pool_of(db).size(), pool_of(db).snapshot().max_overflow) == (1, 2)
    old.resize(9, 9)
    for connection in out:
        await connection.close()
    assert driver.open_now == 0
    at_rest(db, idle=0)


async def test_a_lingering_overflow_does_not_keep_the_pool_above_its_limit():
    """`overflow_linger` keeps what is idle above `pool_size`, not what is above the limit."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=2, guard=Guard(overflow_linger=5))
    async with all_out(db, 4):
        pool_of(db).resize(1, 1)
    await turns()
    assert driver.open_now == 2
    await asyncio.sleep(10)
    at_rest(db, idle=1)


async def test_a_slow_close_keeps_no_waiter_from_what_it_may_have():
    """While a connection that is too many takes its time to close, one that is left goes to a waiter."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0)
    first, second = await db.connect(), await db.connect()
    pool_of(db).resize(1, 0)
    driver.close = Gate.NEVER
    closing = asyncio.create_task(first.close())
    await turns()
    order = []
    (waiter,) = await queue_up(db, order, "waiter")
    await second.close()
    await waiter
    assert order == ["waiter"]
    assert not closing.done()
    driver.let("close")
    await closing
    at_rest(db, idle=1)


async def test_closing_that_is_cancelled_loses_no_slot():
    """Whoever is cancelled while its connection is closed leaves the slot behind."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0)
    out = [await db.connect() for _ in range(2)]
    pool_of(db).resize(1, 0)
    driver.close = Gate.NEVER
    closing = asyncio.create_task(out[0].close())
    await turns()
    closing.cancel()
    await asyncio.wait([closing])
    driver.close = Gate.OK
    ledger_of(db).check()
    await out[1].close()
    await turns()
    at_rest(db, idle=1)


def test_without_any_loop():
    """Where the loop of the connections does not run any more, they are cut off, and no slot is lost."""
    driver = FakeDriver()

    async def use():
        db = engine(driver, pool_size=3)
        async with all_out(db, 3):
            pass
        return db

    db = asyncio.run(use())
    pool_of(db).resize(1, 0)
    assert driver.open_now == 1
    at_rest(db, idle=1)


async def test_a_loop_that_ends_before_it_closes_anything_loses_no_slot():
    """What was to be closed in a loop that ends first stays idle, is handed out, and is closed with the next return."""
    driver = FakeDriver()
    db = engine(driver, pool_size=3)
    async with all_out(db, 3):
        pass
    pool_of(db).resize(1, 0)
    for task in list(pool_of(db)._watch._trimming):
        task.cancel()
    await turns()
    assert pool_of(db).checkedin() == 3
    ledger_of(db).check()
    async with db.connect():
        assert elapsed() == 0
    at_rest(db, idle=1)
    assert driver.open_now == 1


async def test_fail_fast_reckons_with_the_new_size():
    """What is predicted for who comes next counts the connections that there may be now."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(fail_fast=True, max_wait=1.0))
    async with all_out(db, 1):
        await asyncio.sleep(0.5)
    pool_of(db).resize(100, 0)
    assert pool_of(db)._watch.gate._admission.pace._keep == pytest.approx(1 - 1 / 200)
