"""Timeouts against deliveries and cancellations in the same turn of the loop, and what they leave on the task."""

from __future__ import annotations

import asyncio

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import at_rest, engine, ledger_of, queue_up, rejected
from doubles.virtual import elapsed, turns

from sqla_poolguard import CheckoutTimeout


@pytest.mark.parametrize(
    ("pre_ping", "delivered", "outcome"),
    [
        (False, "before", "served"),
        (False, "after", "timeout"),
        (True, "before", "timeout"),  # the deadline of the ping, which is the same, passes in this turn too
        (True, "after", "timeout"),
    ],
)
async def test_timeout_and_delivery_in_the_same_turn(pre_ping, delivered, outcome):
    """When a connection comes back in the very turn in which the deadline passes, the waiter gets one or the other."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1, pool_pre_ping=pre_ping)
    held = await db.connect()
    outcomes = []

    async def ask():
        try:
            async with db.connect():
                outcomes.append("served")
        except CheckoutTimeout:
            outcomes.append("timeout")

    loop = asyncio.get_running_loop()
    deadline = loop.time() + 1
    asking = asyncio.create_task(ask())
    loop.call_at(deadline + (-1e-10 if delivered == "before" else 1e-10), held.sync_connection.close)
    await asking
    assert outcomes == [outcome]
    assert elapsed() == pytest.approx(1.0, abs=1e-9)
    await turns()
    at_rest(db, idle=1)


async def test_cancel_and_timeout_in_the_same_turn_is_a_cancel():
    """A task that is cancelled as its deadline passes is cancelled; the cancellation is not swallowed."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    held = await db.connect()
    (asking,) = await queue_up(db, [], "asking")
    asyncio.get_running_loop().call_at(asyncio.get_running_loop().time() + 1, asking.cancel)
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert rejected(db) == {"cancelled": 1}
    await held.close()
    at_rest(db, idle=1)


async def test_caller_can_bound_the_wait_with_asyncio_timeout():
    """`asyncio.timeout` around a checkout works as for any await: TimeoutError, and the waiter is gone."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=30)
    held = await db.connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await db.connect()
    assert elapsed() == 0.5
    assert rejected(db) == {"cancelled": 1}
    assert asyncio.current_task().cancelling() == 0
    await held.close()
    at_rest(db, idle=1)


async def test_pool_deadline_leaves_no_cancellation_behind():
    """After a CheckoutTimeout in a connect the task is not marked as cancelled."""
    driver = FakeDriver(connect=Gate.NEVER)
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=0.5)
    with pytest.raises(CheckoutTimeout):
        await db.connect()
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(1)
    assert ledger_of(db).waiting == 0
