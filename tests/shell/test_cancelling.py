"""Cancel at every await, before and after a delivery, once and repeatedly. No slot is ever lost."""

from __future__ import annotations

import asyncio

import pytest
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import at_rest, ended, engine, queue_up, rejected
from doubles.virtual import elapsed, turns


async def usable(db, count):
    """Assert that so many connections can be had at the same time, at once."""
    out = [await db.connect() for _ in range(count)]
    for connection in out:
        await connection.close()
    at_rest(db)


async def give_back(connection):
    """Give a connection back without yielding to anybody, as a fast path would."""
    await greenlet_spawn(connection.sync_connection.close)


async def test_cancel_while_waiting():
    """A cancelled waiter leaves the queue; the connection goes to the next."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    order = []
    first, second = await queue_up(db, order, "first", "second")
    first.cancel()
    await turns()
    await held.close()
    await second
    assert first.cancelled()
    assert order == ["second"]
    assert rejected(db) == {"cancelled": 1}
    at_rest(db, idle=1)


async def test_cancel_before_the_delivery_in_the_same_turn():
    """Cancelled, then passed over by a delivery before the task runs again: the next waiter is served."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    order = []
    first, second = await queue_up(db, order, "first", "second")
    first.cancel()
    await give_back(held)
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert order == ["second"]
    at_rest(db, idle=1)


async def test_cancel_between_delivery_and_resume():
    """A connection that was handed to a task which is cancelled before it runs is handed on to the next."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    order = []
    first, second = await queue_up(db, order, "first", "second")
    await give_back(held)
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert order == ["second"]
    assert elapsed() == 0.0
    at_rest(db, idle=1)


async def test_cancel_between_delivery_of_a_slot_and_resume():
    """A free slot that was handed to a task which is cancelled before it runs is handed on to the next."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    order = []
    first, second = await queue_up(db, order, "first", "second")
    await held.invalidate()
    await give_back(held)
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert order == ["second"]
    at_rest(db, idle=1)


async def test_cancel_between_delivery_and_resume_with_nobody_next():
    """A connection handed over in vain, with nobody else in the queue, is idle again."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    (only,) = await queue_up(db, [], "only")
    await give_back(held)
    only.cancel()
    await asyncio.wait([only])
    assert only.cancelled()
    at_rest(db, idle=1)


async def test_every_waiter_cancelled_after_the_delivery():
    """A connection that is handed on and on to tasks that were all cancelled ends up idle."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    tasks = await queue_up(db, [], *range(40))
    await give_back(held)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert rejected(db) == {"cancelled": 40}
    at_rest(db, idle=1)


@pytest.mark.parametrize("next_waits", [False, True])
async def test_cancel_while_connecting(next_waits):
    """The slot of a connect that is cancelled goes to the next waiter, or is free."""
    driver = FakeDriver(connect=Gate.NEVER)
    db = engine(driver, pool_size=1, max_overflow=0)
    order = []
    (connecting,) = await queue_up(db, order, "connecting")
    others = await queue_up(db, order, "next") if next_waits else []
    driver.connect = Gate.OK
    connecting.cancel()
    await asyncio.wait([connecting, *others])
    assert connecting.cancelled()
    assert order == ["next"] * next_waits
    assert elapsed() == 0.0
    await usable(db, 1)


async def test_cancel_while_reconnecting_an_idle_connection():
    """A stale idle connection whose new connect is cancelled leaves a free slot."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0)
    held = await db.connect()
    raw = await held.get_raw_connection()
    await greenlet_spawn(raw.invalidate, soft=True)
    await held.close()
    driver.connect = Gate.NEVER
    (asking,) = await queue_up(db, [], "asking")
    await turns(10)  # the old connection is closed in a task of its own
    assert driver.connecting == 1
    asking.cancel()
    await asyncio.wait([asking])
    driver.connect = Gate.OK
    assert (asking.cancelled(), driver.open_now) == (True, 0)
    await usable(db, 1)


async def test_cancel_while_pinging():
    """A ping that is cancelled closes its connection and frees the slot."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_pre_ping=True)
    await (await db.connect()).close()
    driver.ping = Gate.NEVER
    (pinging,) = await queue_up(db, [], "pinging")
    assert driver.begun["ping"] == 1
    pinging.cancel()
    await asyncio.wait([pinging])
    driver.ping = Gate.OK
    assert (pinging.cancelled(), driver.open_now) == (True, 0)
    assert rejected(db) == {"cancelled": 1}
    await usable(db, 1)


async def test_cancel_while_an_overflow_connection_is_closed():
    """The slot is free after a close that was interrupted, and the connection gone."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=1)
    one, two = await db.connect(), await db.connect()
    await give_back(one)
    driver.close = Gate.NEVER
    closing = asyncio.create_task(greenlet_spawn(two.sync_connection.close))
    await turns()
    assert driver.begun["close"] == 1
    closing.cancel()
    await asyncio.wait([closing])
    assert (closing.cancelled(), driver.open_now) == (True, 1)
    driver.close = Gate.OK
    at_rest(db, idle=1)
    await usable(db, 2)


async def test_waiter_that_comes_during_an_overflow_close_gets_the_slot():
    """Who asks while an overflow connection is being closed gets its slot, even if the close is cancelled twice."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=1)
    one, two = await db.connect(), await db.connect()
    order = []
    await give_back(one)
    driver.close = Gate.NEVER
    closing = asyncio.create_task(greenlet_spawn(two.sync_connection.close))
    await turns()
    again = await db.connect()
    tasks = await queue_up(db, order, "came during the close")
    assert order == []
    closing.cancel()
    closing.cancel()
    await asyncio.wait([closing, *tasks])
    assert order == ["came during the close"]
    assert driver.most == 2
    driver.close = Gate.OK
    await again.close()
    await usable(db, 2)


@pytest.mark.parametrize("rounds", [1, 2, 5])
async def test_repeated_cancel_in_the_manner_of_anyio(rounds):
    """A cancellation that is repeated in every turn, at whatever await, loses no slot."""
    driver = FakeDriver(connect=Gate.SLOW, close=Gate.SLOW, rollback=Gate.SLOW)
    db = engine(driver, pool_size=1, max_overflow=1)

    async def work():
        async with db.connect():
            await asyncio.sleep(0.125)

    for pause in (0.0, 0.125, 0.25, 0.3125, 0.375, 0.5, 0.625):
        tasks = [asyncio.create_task(work()) for _ in range(4)]
        await asyncio.sleep(pause)
        for _ in range(rounds):
            for task in tasks:
                task.cancel()
            await turns(1)
        await asyncio.wait(tasks)
        await asyncio.sleep(5)
        at_rest(db)
    assert driver.most <= 2
    await usable(db, 2)


async def test_cancel_during_reset_invalidates_the_connection():
    """A rollback that is cancelled costs the connection, not the slot."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0)
    held = await db.connect()
    driver.rollback = Gate.NEVER
    closing = asyncio.create_task(greenlet_spawn(held.sync_connection.close))
    await turns()
    closing.cancel()
    await asyncio.wait([closing])
    driver.rollback = Gate.OK
    assert closing.cancelled()
    assert ended(db) == {"invalidated": 1}
    await usable(db, 1)
