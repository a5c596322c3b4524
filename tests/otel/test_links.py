"""Who made whom wait: links, events and attributes, on both sides, and at the true times."""

from __future__ import annotations

import asyncio
import gc
import pathlib
import time

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, at_rest, engine, pool_of
from doubles.virtual import turns, virtual_time
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, StatusCode, format_span_id, format_trace_id, set_span_in_context, use_span

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, DatabaseUnavailable, Guard, _urgency, deadline

SECOND = 1_000_000_000
LINES = pathlib.Path(__file__).read_text("utf-8").splitlines()


def line(mark):
    """Find the line that ends in a mark."""
    return next(number for number, text in enumerate(LINES, 1) if text.endswith(mark))


def short(attributes):
    """Give attributes by short name; seconds to the millisecond."""
    return {
        key.removeprefix("poolguard."): round(value, 3) if isinstance(value, float) else value
        for key, value in attributes.items()
    }


def events(span):
    """Give a span's events: (short name, seconds since it began, attributes)."""
    return [
        (event.name.removeprefix("poolguard."), round((event.timestamp - span.start_time) / SECOND, 3), short(event.attributes))
        for event in span.events
    ]


def same(link, span):
    """Tell whether a link leads to a span."""
    return (link.context.trace_id, link.context.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)


def names(span):
    """Give trace and span as they are written."""
    context = span.get_span_context()
    return format_trace_id(context.trace_id), format_span_id(context.span_id)


HOLDER = f"otel/test_links.py:{line('# holds')} in hold.<locals>.holder"
WAITER = f"otel/test_links.py:{line('# waits')} in wait.<locals>.waiter"


def spans(sdk, name):
    """Give the finished spans of one name."""
    return [span for span in sdk.exporter.get_finished_spans() if span.name == name]


def hold(sdk, db, seconds, name="holder"):
    """Hold a connection for so long, in a trace of its own."""

    async def holder():
        with sdk.tracer.start_as_current_span(name):
            async with db.connect():  # holds
                await asyncio.sleep(seconds)

    return asyncio.create_task(holder(), name=name)


def wait(sdk, db, name="waiter"):
    """Ask for a connection, in a trace of its own."""

    async def waiter():
        with sdk.tracer.start_as_current_span(name):
            async with db.connect():  # waits
                pass

    return asyncio.create_task(waiter(), name=name)


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
        "outcome": "granted",
        "waiter.site": WAITER,
        "waiter.trace_id": trace_id,
        "waiter.span_id": span_id,
    }


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


async def test_cancelled_waiter_hands_on(sdk):
    """A waiter that is cancelled with a connection in its hands is no holder: the next is linked to who gave it."""
    db = engine(pool_size=1, max_overflow=0)
    with sdk.tracer.start_as_current_span("holder"):
        connection = await db.connect()
        first, second = wait(sdk, db, "first"), wait(sdk, db, "second")
        await asyncio.sleep(1)
        connection.sync_connection.close()
        first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    (held,) = spans(sdk, "holder")
    cancelled, granted = sdk.acquired()
    assert short(cancelled.attributes)["outcome"] == "cancelled"
    assert same(granted.links[0], held)
    assert short(granted.attributes)["outcome"] == "granted"


async def test_timeout_is_linked_to_the_longest_holders(sdk):
    """A wait in vain is linked to the three who have held the longest, tells of each, and each is told."""
    db = engine(pool_size=4, max_overflow=0, pool_timeout=2)
    holders = []
    for number in range(4):
        holders.append(hold(sdk, db, 100, f"holder {number}"))
        await asyncio.sleep(1)
    with pytest.raises(CheckoutTimeout):
        await wait(sdk, db)
    for task in holders:
        task.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    (acquired,), (waited,) = sdk.acquired(), spans(sdk, "waiter")
    longest = [spans(sdk, f"holder {number}")[0] for number in range(3)]
    found = short(acquired.attributes)
    assert (found["outcome"], found["wait_time"], found["queue_time"], found["waiters_ahead"]) == ("timeout", 2.0, 2.0, 0)
    assert acquired.end_time - acquired.start_time == 2 * SECOND
    assert all(same(link, span) for link, span in zip(acquired.links, longest, strict=True))
    assert (found["holder.held"], found["holder.trace_id"], found["holder.span_id"]) == (6.0, *names(longest[0]))
    assert found["holder.site"] == HOLDER
    assert "verdict" not in found, "this driver shows nothing on which one could rest"
    assert events(acquired)[0] == ("queue", 0.0, {"duration": 2.0})
    told = events(acquired)[1:]
    assert [(name, after, event["holder.held"], event["holder.trace_id"]) for name, after, event in told] == [
        ("longest_holder", 2.0, held, names(span)[0]) for held, span in zip((6.0, 5.0, 4.0), longest, strict=True)
    ]
    for span in longest:
        (event,), (link,) = span.events, span.links
        assert short(event.attributes) == {
            "wait_time": 2.0,
            "outcome": "timeout",
            "waiter.site": WAITER,
            "waiter.trace_id": names(waited)[0],
            "waiter.span_id": format_span_id(acquired.context.span_id),
        }
        assert same(link, acquired)
    assert spans(sdk, "holder 3")[0].events == ()


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("queue_full", {"guard": Guard(max_waiting=0)}),
        ("timeout", {"pool_timeout": 0}),
        ("deadline", {"pool_timeout": 9}),
        ("rejected", {"pool_timeout": 9, "guard": Guard(fail_fast=True, max_wait=0.2)}),
    ],
)
async def test_every_refusal_is_linked(sdk, reason, options, monkeypatch):
    """Whoever is refused is linked to the holder, whatever the reason."""
    monkeypatch.setattr(_urgency, "clock", virtual_time)
    db = engine(pool_size=1, max_overflow=0, **options)
    if reason == "rejected":  # the pool has learned how long it takes
        for _ in range(30):
            async with db.connect():
                await asyncio.sleep(1)
    holder = hold(sdk, db, 3)
    await asyncio.sleep(1)

    async def ask():
        with sdk.tracer.start_as_current_span("waiter"), deadline(0.5 if reason == "deadline" else 100):
            await db.connect()

    outcomes = await asyncio.gather(ask(), *([ask()] if reason == "rejected" else []), return_exceptions=True)
    await holder
    (held,) = spans(sdk, "holder")
    refused = [span for span in sdk.acquired() if short(span.attributes)["outcome"] == reason]
    assert refused
    assert all(isinstance(outcome, (CheckoutTimeout, CheckoutRejected)) for outcome in outcomes)
    for span in refused:
        assert same(span.links[0], held)
        assert span.status.status_code is StatusCode.ERROR
    await db.dispose()


async def test_database_unavailable(sdk):
    """While the database is down it is no holder's fault: the verdict says so, with the type of the error, and names nobody."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=5)
    with pytest.raises(DatabaseUnavailable) as caught:
        await wait(sdk, db)
    (acquired,) = sdk.acquired()
    found = short(acquired.attributes)
    assert (found["outcome"], found["verdict"]) == ("unavailable", "database_unavailable")
    assert found["database_error"].endswith(type(caught.value.orig).__qualname__)
    assert acquired.links == ()
    assert acquired.status.status_code is StatusCode.ERROR
    assert acquired.status.description is None
    assert [name for name, _, _ in events(acquired)] == ["connect", "queue"]
    assert found["wait_time"] == (acquired.end_time - acquired.start_time) / SECOND
    await db.dispose()


async def test_timeout_while_connecting_blames_no_holder(sdk):
    """Who was let in and then waited in vain for the connect waited for no holder."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0, pool_timeout=2, guard=Guard(breaker=False))
    async with db.connect():
        driver.connect = Gate.NEVER
        with pytest.raises(CheckoutTimeout):
            await wait(sdk, db)
    (acquired,) = sdk.acquired()
    assert events(acquired) == [("connect", 0.0, {"duration": 2.0})]
    assert acquired.links == ()


async def test_cancelled_wait_names_the_holder(sdk):
    """A wait that is cancelled has been for the holder, who is told."""
    db = engine(pool_size=1, max_overflow=0)
    holder = hold(sdk, db, 3)
    await turns()
    waiter = wait(sdk, db)
    await asyncio.sleep(1)
    waiter.cancel()
    await asyncio.gather(holder, waiter, return_exceptions=True)
    (held,), (acquired,) = spans(sdk, "holder"), sdk.acquired()
    assert short(acquired.attributes)["outcome"] == "cancelled"
    assert "verdict" not in short(acquired.attributes)
    assert same(acquired.links[0], held)
    assert short(held.events[0].attributes)["outcome"] == "cancelled"


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


class Broken(SpanProcessor):
    """A processor that raises."""

    def on_start(self, span, parent_context=None):
        """Raise, for ours."""
        if span.name.startswith("pool."):
            message = "broken"
            raise RuntimeError(message)

    def on_end(self, span):
        """Raise, for ours."""
        self.on_start(span)


async def test_broken_processor_breaks_no_checkout(sdk, caplog):
    """What an SDK's processor raises is logged once, and neither a wait nor a release fails for it."""
    sdk.tracer_provider.add_span_processor(Broken())
    db = engine(pool_size=1, max_overflow=0, pool_timeout=3)
    for _ in range(3):
        holder = hold(sdk, db, 1)
        await turns()
        await asyncio.gather(holder, wait(sdk, db))
    async with all_out(db, 1):
        with pytest.raises(CheckoutTimeout):
            await wait(sdk, db)
    at_rest(db, 1)
    said = [record.getMessage() for record in caplog.records if record.name == "sqla_poolguard" and record.levelname == "ERROR"]
    assert said == ["a span could not be drawn; further failures are not logged"]


async def test_broken_span_breaks_no_release(sdk, monkeypatch):
    """A holder's span that cannot be written on, or cannot be linked from, costs it nothing."""
    db = engine(pool_size=1, max_overflow=0)

    class Older(NonRecordingSpan):
        def is_recording(self):
            return True

        def add_event(self, *_, **__):
            message = "ended in between"
            raise RuntimeError(message)

    async def holder():
        with sdk.tracer.start_as_current_span("real") as real, use_span(Older(real.get_span_context())):
            async with db.connect():
                await asyncio.sleep(1)

    task = asyncio.create_task(holder())
    await turns()
    await asyncio.gather(task, wait(sdk, db))
    assert same(sdk.acquired()[0].links[0], spans(sdk, "real")[0])
    at_rest(db, 1)
