"""Waits that ended well: who ended them, by links and attributes, phase by phase and at the true times."""

from __future__ import annotations

import asyncio
import time

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, engine, pool_of
from doubles.virtual import turns
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, set_span_in_context, use_span

from sqla_poolguard import CheckoutTimeout, Guard

from .traces import HOLDER, SECOND, WAITER, events, hold, names, same, short, spans, wait


async def test_release_ends_the_wait(sdk):
    """The wait is linked to the holder who gave its connection, and the holder's own span tells whom it kept waiting."""
    db = engine(pool_size=1, max_overflow=0)
    holder = hold(sdk, db, 1)
    await turns()
    waiter = wait(sdk, db)
    before = time.time_ns()
    await asyncio.gather(holder, waiter)
    (acquired,), (held,), (waited,) = sdk.acquired(), spans(sdk, "holder"), spans(sdk, "waiter")
    assert acquired.parent.span_id == waited.context.span_id
    assert acquired.context.trace_id == waited.context.trace_id
    (link,) = acquired.links
    assert same(link, held)
    assert short(link.attributes) == {"link": "holder"}
    trace_id, span_id = names(held)
    assert {key: value for key, value in short(acquired.attributes).items() if key.startswith("holder.")} == {
        "holder.site": HOLDER,
        "holder.held": 1.0,
        "holder.trace_id": trace_id,
        "holder.span_id": span_id,
    }
    assert events(acquired) == [("queue", 0.0, {"duration": 1.0})]
    assert before - SECOND <= acquired.start_time <= acquired.end_time <= time.time_ns()
    (back,) = held.links
    assert same(back, waited)
    assert short(back.attributes) == {"link": "waiter"}
    (event,) = held.events
    trace_id, span_id = names(waited)
    assert event.name == "poolguard.blocked_waiter"
    assert held.start_time <= event.timestamp <= held.end_time
    assert short(event.attributes) == {
        "wait_time": 1.0,
        "outcome": "handed_over",
        "waiter.site": WAITER,
        "waiter.trace_id": trace_id,
        "waiter.span_id": span_id,
    }


async def test_slot_that_is_freed(sdk):
    """Who loses its connection frees a slot: the wait is linked to that holder, and its connect is a phase of its own."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0)

    async def holder():
        with sdk.tracer.start_as_current_span("holder"):
            async with db.connect() as connection:
                await asyncio.sleep(1)
                driver.connect, driver.delay = Gate.SLOW, 0.5
                await connection.invalidate()

    task = asyncio.create_task(holder())
    await turns()
    await asyncio.gather(task, wait(sdk, db))
    (held,), (acquired,) = spans(sdk, "holder"), sdk.acquired()
    assert same(acquired.links[0], held)
    assert events(acquired) == [("queue", 0.0, {"duration": 1.0}), ("connect", 1.0, {"duration": 0.5})]
    assert short(acquired.attributes)["queue_time"] == 1.0
    assert short(acquired.attributes)["wait_time"] == 1.5


async def test_new_connection(sdk):
    """A wait for a connect is nobody's fault: one phase, no holder, no link."""
    db = engine(FakeDriver(connect=Gate.SLOW, delay=0.5))
    await wait(sdk, db)
    (acquired,) = sdk.acquired()
    assert events(acquired) == [("connect", 0.0, {"duration": 0.5})]
    assert acquired.links == ()
    assert not [key for key in acquired.attributes if "holder" in key]


async def test_pings_are_phases(sdk):
    """The pool's own ping and SQLAlchemy's are phases; a connect that follows a ping that failed is the next."""
    for options in ({"guard": Guard(ping_after=1)}, {"pool_pre_ping": True}):
        driver = FakeDriver()
        db = engine(driver, **options)
        await (await db.connect()).close()
        await asyncio.sleep(5)
        driver.ping, driver.delay = Gate.SLOW, 0.2
        await wait(sdk, db)
        assert events(sdk.acquired()[-1]) == [("ping", 0.0, {"duration": 0.2})]
        await asyncio.sleep(5)
        driver.ping, driver.connect, driver.delay = Gate.ERROR, Gate.SLOW, 0.3
        await wait(sdk, db)
        assert events(sdk.acquired()[-1]) == [("ping", 0.0, {"duration": 0.0}), ("connect", 0.0, {"duration": 0.3})]


async def test_two_pools(sdk):
    """Each pool's waits are linked to its own holders."""
    one, two = engine(pool_size=1, max_overflow=0), engine(pool_size=1, max_overflow=0)
    holders = [hold(sdk, one, 1, "one"), hold(sdk, two, 2, "two")]
    await turns()
    await asyncio.gather(*holders, wait(sdk, two), wait(sdk, one))
    by_name = {span.name: span for span in sdk.acquired()}
    assert same(by_name[f"pool.acquire {pool_of(one).name}"].links[0], spans(sdk, "one")[0])
    assert same(by_name[f"pool.acquire {pool_of(two).name}"].links[0], spans(sdk, "two")[0])


async def test_holder_without_a_trace(sdk):
    """A holder outside of any trace, in one that is not sampled, or in one that only came from elsewhere is named, and not linked."""
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("application")
    with sdk.tracer.start_as_current_span("elsewhere") as span:
        context = span.get_span_context()
    remote = type(context)(context.trace_id, context.span_id, is_remote=True, trace_flags=context.trace_flags)
    db = engine(pool_size=1, max_overflow=0)

    async def holder(span):
        with use_span(span):
            async with db.connect():
                await asyncio.sleep(1)

    for parent in (
        NonRecordingSpan(remote),
        unsampled.start_span("unsampled"),
        sdk.tracer.start_span("x", set_span_in_context(span)),
    ):
        task = asyncio.create_task(holder(parent))
        await turns()
        await asyncio.gather(task, wait(sdk, db))
    nowhere, unrecorded, recorded = sdk.acquired()
    assert nowhere.links == unrecorded.links == ()
    assert len(recorded.links) == 1
    for span in (nowhere, unrecorded):
        assert short(span.attributes)["holder.held"] == 1.0
        assert "holder.trace_id" not in short(span.attributes)


async def test_span_that_holds_several(sdk):
    """A span that holds several connections is linked once, and told once who has waited in vain."""
    db = engine(pool_size=3, max_overflow=0, pool_timeout=1)

    async def holder():
        with sdk.tracer.start_as_current_span("holder"):
            async with all_out(db, 3):
                await asyncio.sleep(2)

    task = asyncio.create_task(holder())
    await turns()
    with pytest.raises(CheckoutTimeout):
        await wait(sdk, db)
    await task
    (acquired,), (held,) = sdk.acquired(), spans(sdk, "holder")
    assert [same(link, held) for link in acquired.links] == [True]
    assert [event.name for event in acquired.events].count("poolguard.longest_holder") == 3
    assert [event.name for event in held.events] == ["poolguard.blocked_waiter"]
    assert len(held.links) == 1
