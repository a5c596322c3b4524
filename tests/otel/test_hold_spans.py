"""A span for a hold worth seeing: in its holder's trace, whatever became of that; never a root, never a flood."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from doubles.pools import Recorder, at_rest, engine, ledger_of, pool_of
from doubles.virtual import turns
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode, use_span

from sqla_poolguard import Guard
from sqla_poolguard._otel import _spans
from sqla_poolguard._otel._quota import EACH_SECOND, Quota
from sqla_poolguard._totals import Totals

SECOND = 1_000_000_000
LEAK = "ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning"


def short(span):
    """Give a span's attributes by short name."""
    return {key.removeprefix("poolguard."): value for key, value in span.attributes.items()}


def holds(sdk):
    """Give the spans of holds."""
    return [span for span in sdk.exporter.get_finished_spans() if span.name.startswith("pool.hold")]


def finished(sdk, name):
    """Give the one finished span of a name."""
    (span,) = (span for span in sdk.exporter.get_finished_spans() if span.name == name)
    return span


async def test_overdue_hold(sdk):
    """A hold that was reported as overdue is drawn when it ends: inside its holder's span, from grant to end."""
    db = engine(guard=Guard(hold_warning=2))
    with sdk.tracer.start_as_current_span("request") as request:
        await asyncio.sleep(1)
        async with db.connect():
            await asyncio.sleep(5)
        async with db.connect():
            await asyncio.sleep(1)
    (span,) = holds(sdk)
    assert span.name == f"pool.hold {pool_of(db).name}"
    assert span.parent.span_id == request.get_span_context().span_id
    assert span.context.trace_id == request.get_span_context().trace_id
    assert span.end_time - span.start_time == 5 * SECOND
    assert request.end_time >= span.end_time
    found = short(span)
    assert (found["held"], found["ending"], found["found"], found["wait_time"]) == (5.0, "checked_in", ("overdue",), 0.0)
    assert found["code.function.name"].endswith("test_overdue_hold")
    assert found["db.client.connection.pool.name"] == pool_of(db).name
    assert span.status.status_code is StatusCode.UNSET


async def test_hold_whose_span_has_ended(sdk):
    """A hold that outlives its request lands in that request's trace, as a child of it, and is no root."""
    db = engine(guard=Guard(hold_warning=2))

    async def request():
        with sdk.tracer.start_as_current_span("request"):
            connection = await db.connect()
            await asyncio.sleep(3)
        await asyncio.sleep(3)
        await connection.close()

    await asyncio.create_task(request())
    (span,), parent = holds(sdk), finished(sdk, "request")
    assert (span.parent.span_id, span.context.trace_id) == (parent.context.span_id, parent.context.trace_id)
    assert span.end_time - span.start_time == 6 * SECOND


async def test_span_around_the_commit_is_no_parent(sdk):
    """A step of the holder's that has begun after the hold is not where it was held; the span around it is."""
    db = engine(guard=Guard(hold_warning=2))
    with sdk.tracer.start_as_current_span("request") as request:
        connection = await db.connect()
        await asyncio.sleep(3)
        with sdk.tracer.start_as_current_span("commit"):
            await connection.close()
    (span,) = holds(sdk)
    assert span.parent.span_id == request.get_span_context().span_id


async def test_hold_that_another_trace_ends(sdk):
    """A hold that is ended by the task of another request belongs to the one that began it."""
    db = engine(guard=Guard(hold_warning=2))
    kept = []

    async def begin():
        with sdk.tracer.start_as_current_span("begins"):
            kept.append(await db.connect())
            await asyncio.sleep(3)

    async def end():
        with sdk.tracer.start_as_current_span("ends"):
            await kept[0].close()

    await asyncio.create_task(begin())
    await asyncio.create_task(end())
    (span,) = holds(sdk)
    assert span.parent.span_id == finished(sdk, "begins").context.span_id


@pytest.mark.parametrize("traced", ["outside", "unsampled"])
async def test_no_root_is_drawn(sdk, traced):
    """A hold outside of any trace, or in one that is not sampled, is not drawn, whatever was found of it."""
    tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("application")
    db = engine(guard=Guard(hold_warning=2))

    async def request():
        async with db.connect():
            await asyncio.sleep(5)

    if traced == "outside":
        await asyncio.create_task(request())
    else:
        with tracer.start_as_current_span("request"):
            await asyncio.create_task(request())
    assert sdk.exporter.get_finished_spans() == ()


async def test_every_hold_is_drawn_though_the_log_tells_one(sdk):
    """What is found at the same line is told once, and drawn each time."""
    recorder = Recorder()
    db = engine(guard=Guard(hold_warning=2, observers=(recorder,)))

    async def request():
        with sdk.tracer.start_as_current_span("request"):
            async with db.connect():
                await asyncio.sleep(3)

    for _ in range(3):
        await request()
    assert len(holds(sdk)) == 3
    assert all(short(span)["found"] == ("overdue",) for span in holds(sdk))


@pytest.mark.filterwarnings(LEAK)
async def test_leak(sdk):
    """A connection that the garbage collector finds is an error in the trace of the task that lost it, drawn once the loop runs on."""
    db = engine(guard=Guard(hold_warning=None))

    async def request():
        with sdk.tracer.start_as_current_span("request"):
            held = [await db.connect()]
            await asyncio.sleep(2)
            held.clear()
            gc.collect()
            assert holds(sdk) == [], "not by the garbage collector itself"
            await asyncio.sleep(1)

    await asyncio.create_task(request())
    (span,), parent = holds(sdk), finished(sdk, "request")
    assert (span.parent.span_id, span.context.trace_id) == (parent.context.span_id, parent.context.trace_id)
    assert span.end_time - span.start_time == 2 * SECOND
    assert (short(span)["ending"], short(span)["found"]) == ("leaked", ("leaked",))
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "the connection was never given back")
    at_rest(db)


def test_leaks_that_are_too_many_are_counted(sdk):
    """Of leaks that are found at once, those for which there is no room are counted as suppressed."""
    totals = Totals()
    spans = sdk.spans.of_pool(totals)
    for _ in range(_spans._KEPT + 5):
        spans.keep(object(), 0.0)
    assert totals.spans_suppressed == 5


@pytest.mark.filterwarnings(LEAK)
async def test_leak_without_a_loop(sdk):
    """A leak that is found when no loop runs is drawn at the next occasion, and not in the collector's arms."""
    db = engine(guard=Guard(hold_warning=2))
    kept = []

    async def request():
        with sdk.tracer.start_as_current_span("request"):
            kept.append(await db.connect())
            await asyncio.sleep(3)

    await asyncio.create_task(request())
    loop = pool_of(db)._watch._home
    pool_of(db)._watch._home = None

    def collect():
        kept.clear()
        gc.collect()

    kept[0].sync_connection._dbapi_connection._connection_record.loop = None
    thread = threading.Thread(target=collect)
    thread.start()
    thread.join()
    assert holds(sdk) == []
    pool_of(db)._watch._home = loop
    await db.dispose()
    (span,) = holds(sdk)
    assert short(span)["found"] == ("overdue", "leaked")
    assert span.parent.span_id == finished(sdk, "request").context.span_id


async def test_two_pools(sdk):
    """Holds of two pools in one request are two spans beside one another."""
    one, two = engine(guard=Guard(hold_warning=1)), engine(guard=Guard(hold_warning=1))
    with sdk.tracer.start_as_current_span("request") as request:
        async with one.connect(), two.connect():
            await asyncio.sleep(2)
    assert sorted(span.name for span in holds(sdk)) == sorted(f"pool.hold {pool_of(db).name}" for db in (one, two))
    assert {span.parent.span_id for span in holds(sdk)} == {request.get_span_context().span_id}


async def test_no_flood(sdk):
    """Of many waits at one line within a second some are drawn, the others counted, which the next span tells; another line has its own share."""
    db = engine(pool_size=1, max_overflow=0)
    totals = ledger_of(db).totals

    async def request():
        await (await db.connect()).close()

    async def other():
        await (await db.connect()).close()

    with sdk.tracer.start_as_current_span("request"):
        async with db.connect():
            crowd = [asyncio.create_task(request()) for _ in range(EACH_SECOND + 15)] + [asyncio.create_task(other())]
            await asyncio.sleep(1)
        await asyncio.gather(*crowd)
        assert len(sdk.acquired()) == EACH_SECOND + 1
        suppressed = totals.spans_suppressed
        assert suppressed >= 15
        assert sdk.values()["poolguard.spans_suppressed"] == suppressed
        assert "suppressed" not in short(sdk.acquired()[-1])
        await asyncio.sleep(1)
        async with db.connect():
            late = asyncio.create_task(request())
            await asyncio.sleep(1)
        await late
    assert short(sdk.acquired()[-1])["suppressed"] == 15
    assert totals.spans_suppressed == suppressed


def test_quota_is_bounded():
    """Lines beyond a thousand share one quota, and no more is kept of them."""
    totals = Totals()
    quota = Quota(totals)
    assert [quota.take(line, 0.0) for line in range(1000)] == [0] * 1000
    taken = [quota.take(line, 0.0) for line in range(1000, 3000)]
    assert len([count for count in taken if count is not None]) == EACH_SECOND
    assert totals.spans_suppressed == 2000 - EACH_SECOND
    assert len(quota._lines) <= 1001
    assert quota.take(5000, 1.0) == 2000 - EACH_SECOND


async def test_parent_of_another_provider(sdk):
    """A parent of whichever provider will do; what is drawn goes to the pool's own."""
    own = TracerProvider(shutdown_on_exit=False)
    db = engine(guard=Guard(hold_warning=1, tracer_provider=sdk.tracer_provider))
    span = own.get_tracer("application").start_span("request")
    with use_span(span, end_on_exit=True):
        async with db.connect():
            await asyncio.sleep(2)
    (drawn,) = holds(sdk)
    assert drawn.parent.span_id == span.get_span_context().span_id


async def test_telemetry_off(sdk):
    """Without telemetry nothing is drawn."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(hold_warning=1, telemetry=False))

    async def request():
        with sdk.tracer.start_as_current_span("request"):
            async with db.connect():
                await asyncio.sleep(2)

    await asyncio.gather(request(), request())
    await turns()
    assert {span.name for span in sdk.exporter.get_finished_spans()} == {"request"}
