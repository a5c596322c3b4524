"""What a holder's own span tells of those who waited for its connection."""

from __future__ import annotations

import asyncio
import gc

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import at_rest, engine
from doubles.virtual import turns
from opentelemetry.trace import use_span

from sqla_poolguard import Guard

from .traces import events, hold, names, same, short, spans, wait


async def test_holder_who_is_gone_when_the_waiter_wakes(sdk):
    """A holder that closes by hand and ends its span before anybody else runs is linked to, and was told."""
    db = engine(pool_size=1, max_overflow=0)
    with sdk.tracer.start_as_current_span("holder"):
        connection = await db.connect()
        waiter = wait(sdk, db)
        await asyncio.sleep(1)
        connection.sync_connection.close()  # awaits nothing
    (held,) = spans(sdk, "holder")
    assert [event.name for event in held.events] == ["poolguard.blocked_waiter"]
    assert not waiter.done()
    await waiter
    (acquired,) = sdk.acquired()
    assert same(acquired.links[0], held)


async def test_holder_whose_span_ended_before(sdk):
    """A holder that gives back after its own span has ended is linked to all the same; nothing is written on a span that is over."""
    db = engine(pool_size=1, max_overflow=0)
    span = sdk.tracer.start_span("holder")

    async def holder():
        with use_span(span):
            async with db.connect():
                await asyncio.sleep(1)
                span.end()

    task = asyncio.create_task(holder())
    await turns()
    await asyncio.gather(task, wait(sdk, db))
    (held,), (acquired,) = spans(sdk, "holder"), sdk.acquired()
    assert same(acquired.links[0], held)
    assert held.events == held.links == ()


async def test_waiter_without_a_trace(sdk):
    """A holder is told of a waiter whose trace is not recorded, without a link; that waiter gets no span."""
    db = engine(pool_size=1, max_overflow=0)
    holder = hold(sdk, db, 1)
    await turns()

    async def waiter():
        await (await db.connect()).close()

    await asyncio.gather(holder, waiter())
    (held,) = spans(sdk, "holder")
    assert short(held.events[0].attributes).keys() == {"wait_time", "outcome", "waiter.site"}
    assert held.links == ()
    assert sdk.acquired() == []


async def test_short_waits_disturb_no_holder(sdk):
    """Below the threshold nobody is told of anything."""
    db = engine(pool_size=1, max_overflow=0)
    holder = hold(sdk, db, 0.04)
    await turns()
    await asyncio.gather(holder, wait(sdk, db))
    assert spans(sdk, "holder")[0].events == ()
    assert sdk.acquired() == []


@pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")
async def test_collected_holder(sdk):
    """A slot that the garbage collector frees is linked to the span of the task that leaked; nothing is written on that span from there."""
    db = engine(pool_size=1, max_overflow=0)

    async def leak():
        with sdk.tracer.start_as_current_span("holder"):
            held = [await db.connect()]
            await asyncio.sleep(1)
            held.clear()
            gc.collect()
            await asyncio.sleep(1)

    leaking = asyncio.create_task(leak())
    await turns()
    await asyncio.gather(leaking, wait(sdk, db))
    (held,), (acquired,) = spans(sdk, "holder"), sdk.acquired()
    assert held.events == held.links == ()
    assert short(acquired.attributes)["holder.held"] == 1.0
    at_rest(db)


async def cancelled_when_handed_over(sdk):
    """Let two wait for a connection, and cancel the first in the moment in which it gets it."""
    db = engine(pool_size=1, max_overflow=0)
    connection = await db.connect()
    first, second = wait(sdk, db, "first"), wait(sdk, db, "second")
    await asyncio.sleep(1)
    connection.sync_connection.close()
    first.cancel()
    return first, second


async def test_cancelled_waiter_hands_on(sdk):
    """A waiter that is cancelled with a connection in its hands is no holder: the next is linked to who gave it."""
    with sdk.tracer.start_as_current_span("holder"):
        waiters = await cancelled_when_handed_over(sdk)
    await asyncio.gather(*waiters, return_exceptions=True)
    (held,) = spans(sdk, "holder")
    cancelled, granted = sdk.acquired()
    assert short(cancelled.attributes)["outcome"] == "cancelled"
    assert same(granted.links[0], held)
    assert short(granted.attributes)["outcome"] == "granted"


async def test_waiter_that_is_cancelled_after_the_hand_over(sdk):
    """A holder is told that it gave, not what became of it; if that waiter is cancelled in the same moment, it is told that too, and of the next."""
    with sdk.tracer.start_as_current_span("holder"):
        await asyncio.gather(*await cancelled_when_handed_over(sdk), return_exceptions=True)
    (held,) = spans(sdk, "holder")
    told = [(event["outcome"], event["waiter.trace_id"]) for _, _, event in events(held)]
    (one, two) = (names(spans(sdk, name)[0])[0] for name in ("first", "second"))
    assert sorted(told) == sorted([("handed_over", one), ("cancelled", one), ("handed_over", two)])
    assert [short(span.attributes)["outcome"] for span in sdk.acquired()] == ["cancelled", "granted"]


async def test_waiter_whose_connect_fails_after_the_hand_over(sdk):
    """Nor is a holder told that a waiter got a connection which got its slot, and then could not connect: that is no fault of the holder's."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, guard=Guard(breaker=False))
    with sdk.tracer.start_as_current_span("holder"):
        connection = await db.connect()
        waiter = wait(sdk, db)
        await asyncio.sleep(1)
        driver.connect = Gate.ERROR
        await connection.invalidate()
        await connection.close()
        await asyncio.gather(waiter, return_exceptions=True)
    (held,) = spans(sdk, "holder")
    assert [event["outcome"] for _, _, event in events(held)] == ["handed_over"]


async def test_span_around_the_commit_hides_no_holder(sdk):
    """Who has waited for its connection itself is told on the span in which it did, although it gives back in one within, say around its commit."""
    db = engine(pool_size=1, max_overflow=0)

    async def holder():
        with sdk.tracer.start_as_current_span("holder"):
            connection = await db.connect()
            await asyncio.sleep(0.03)  # too short for a sample
            with sdk.tracer.start_as_current_span("commit"):
                await asyncio.sleep(0.03)
                await connection.close()
            await asyncio.sleep(1)

    first = hold(sdk, db, 0.01, "first")
    await turns()
    task = asyncio.create_task(holder())
    await turns()
    await asyncio.gather(first, task, wait(sdk, db))
    (held,), (commit,), acquired = spans(sdk, "holder"), spans(sdk, "commit"), sdk.acquired()[-1]
    assert [event["outcome"] for _, _, event in events(held)] == ["handed_over"]
    assert commit.events == ()
    assert same(acquired.links[0], held)


async def test_span_around_the_checkout_is_not_where_it_is_held(sdk):
    """A span around the checkout alone, as other instrumentations draw it, is over when the connection is given back: the one around it is linked to."""
    db = engine(pool_size=1, max_overflow=0)

    async def holder():
        with sdk.tracer.start_as_current_span("holder"):
            with sdk.tracer.start_as_current_span("connect"):
                connection = await db.connect()
            await asyncio.sleep(0.06)
            await connection.close()

    first = hold(sdk, db, 0.01, "first")
    await turns()
    task = asyncio.create_task(holder())
    await turns()
    await asyncio.gather(first, task, wait(sdk, db))
    (held,), acquired = spans(sdk, "holder"), sdk.acquired()[-1]
    assert [event["outcome"] for _, _, event in events(held)] == ["handed_over"]
    assert same(acquired.links[0], held)
