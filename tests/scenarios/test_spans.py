"""Holds and waits in traces, on a real PostgreSQL, seen by the real sampler: gaps that name what was awaited, at honest times."""

from __future__ import annotations

import asyncio
import gc
import time
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scenarios.stage import HELD, LONG, ONE, SLEEP, Stage
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_poolguard import CheckoutTimeout, FindingKind, _holds, _sampler, allow_hold
from sqla_poolguard._otel._spans import PoolSpans

pytestmark = pytest.mark.postgres


CLOCK_SET = 50_000_000
"""Nanoseconds by which the machine's wall clock may be set during a test; a hold is timed by the other one."""


@pytest.fixture(autouse=True)
def undeclared():
    """Begin without declarations."""
    _holds.forget()


@pytest.fixture
def sdk():
    """Give an SDK of the test's own."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def named(start):
        return [span for span in exporter.get_finished_spans() if span.name.startswith(start)]

    yield SimpleNamespace(provider=provider, tracer=provider.get_tracer("application"), named=named)
    provider.shutdown()


def short(attributes):
    """Give attributes by short name."""
    return {key.removeprefix("poolguard."): value for key, value in attributes.items()}


def line(mark):
    """Find the line of this file that ends in a mark."""
    with open(__file__) as source:
        return next(number for number, row in enumerate(source, 1) if row.rstrip().endswith(mark))


async def test_hold_across_awaits(postgres_url, sdk):
    """A hold across awaits is drawn from grant to end, with each idle gap: its line, what was awaited, within its real time."""
    async with Stage(postgres_url, guard={"tracer_provider": sdk.provider}) as stage:
        times = [time.time_ns()]
        with sdk.tracer.start_as_current_span("request"):
            async with AsyncSession(stage.db) as session:
                await session.execute(ONE)
                times.append(time.time_ns())
                await asyncio.sleep(LONG)  # first
                times.append(time.time_ns())
                await session.execute(SLEEP)
                times.append(time.time_ns())
                with sdk.tracer.start_as_current_span("call"):
                    await stage.http.get("/")  # second
                times.append(time.time_ns())
        times.append(time.time_ns())
    (span,), (request,) = sdk.named("pool.hold"), sdk.named("request")
    assert span.parent.span_id == request.context.span_id
    assert times[0] - CLOCK_SET <= span.start_time <= times[1] + CLOCK_SET
    assert times[4] - CLOCK_SET <= span.end_time <= times[5] + CLOCK_SET
    found = short(span.attributes)
    assert HELD in found["found"]
    assert found["in_transaction"] is True
    assert found["held"] == pytest.approx((span.end_time - span.start_time) / 1e9, abs=0.001)
    assert 0 < found["in_database"] < found["held"]
    assert 0 < found["elsewhere"] < found["held"]
    gaps = {short(event.attributes)["current"].partition(" in ")[0].rpartition(":")[2]: event for event in span.events}
    first, second = gaps[str(line("# first"))], gaps[str(line("# second"))]
    assert {event.name for event in span.events} == {"poolguard.idle"}
    assert short(first.attributes)["awaiting"] == "asyncio sleep"
    assert short(second.attributes)["awaiting"].startswith("httpx")
    for event, begin, end in ((first, times[1], times[2]), (second, times[3], times[4])):
        seconds = short(event.attributes)["duration"]
        assert 0 < seconds <= (end - begin) / 1e9
        assert begin - CLOCK_SET <= event.timestamp <= event.timestamp + seconds * 1e9 <= end + CLOCK_SET


async def test_transaction_that_was_open_while_it_idled(postgres_url, sdk):
    """A hold was idle in a transaction although that is over when it is looked at last."""
    async with Stage(postgres_url, guard={"tracer_provider": sdk.provider}) as stage:
        with sdk.tracer.start_as_current_span("request"):
            async with stage.db.connect() as connection:
                await connection.execute(ONE)
                await asyncio.sleep(LONG)
                await connection.rollback()
                await asyncio.sleep(LONG)
    (span,) = sdk.named("pool.hold")
    assert short(span.attributes)["in_transaction"] is True


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
async def test_lost_hold_whose_holder_just_ran_when_it_was_seen_first(postgres_url, sdk, monkeypatch):
    """Where a task tells its context only while it waits, as on Python 3.11, the next samples find out where in a trace it is."""
    monkeypatch.setattr(_sampler, "_FIRST", 4)
    looks, spot_of = [], PoolSpans.spot_of

    def at_first_in_vain(spans, task):
        looks.append(task)
        return spot_of(spans, task) if len(looks) > 2 else None

    monkeypatch.setattr(PoolSpans, "spot_of", at_first_in_vain)
    async with Stage(postgres_url, guard={"tracer_provider": sdk.provider}) as stage:

        async def forget():
            with sdk.tracer.start_as_current_span("request"):
                connection = await stage.db.connect()
                await connection.execute(ONE)
                await asyncio.sleep(3 * LONG)

        await asyncio.create_task(forget())
        gc.collect()
        await asyncio.sleep(0.01)
    (span,), (request,) = sdk.named("pool.hold"), sdk.named("request")
    assert span.parent.span_id == request.context.span_id


async def test_hold_that_is_right_is_not_drawn(postgres_url, sdk):
    """A long query, and a hold that is declared, are nothing to see."""
    async with Stage(postgres_url, guard={"tracer_provider": sdk.provider}) as stage:
        with sdk.tracer.start_as_current_span("request"):
            async with AsyncSession(stage.db) as session:
                await session.execute(SLEEP)
            with allow_hold("a test"):
                async with AsyncSession(stage.db) as session:
                    await session.execute(ONE)
                    await asyncio.sleep(LONG)
    assert sdk.named("pool.") == []


async def test_request_that_has_ended(postgres_url, sdk):
    """A hold that goes on after its request's span has ended is drawn in that trace."""
    async with Stage(postgres_url, guard={"tracer_provider": sdk.provider}) as stage:
        session = AsyncSession(stage.db)
        with sdk.tracer.start_as_current_span("request"):
            await session.execute(ONE)
            await asyncio.sleep(LONG)
        await asyncio.sleep(LONG)
        await session.close()
    (span,), (request,) = sdk.named("pool.hold"), sdk.named("request")
    assert span.parent.span_id == request.context.span_id
    assert span.end_time > request.end_time


async def test_verdict_of_a_timeout(postgres_url, sdk):
    """A wait in vain carries the verdict of its error, and of the longest holders what they await; each is told on its own span."""
    async with Stage(postgres_url, pool_size=1, pool_timeout=LONG, guard={"tracer_provider": sdk.provider}) as stage:

        async def hold():
            with sdk.tracer.start_as_current_span("holder"):
                async with stage.db.connect() as connection:
                    await connection.execute(text("SELECT 1"))
                    begun.set()
                    await asyncio.sleep(LONG * 3)  # holds

        begun = asyncio.Event()
        holder = asyncio.create_task(hold())
        await begun.wait()
        with sdk.tracer.start_as_current_span("waiter"), pytest.raises(CheckoutTimeout) as caught:
            await stage.db.connect()
        await holder
    (acquired,), (held,) = sdk.named("pool.acquire"), sdk.named("holder")
    found, error = short(acquired.attributes), caught.value
    assert error.verdict is not None
    assert (found["verdict.cause"], found["verdict.evidence"]) == (str(error.verdict.cause), error.verdict.evidence)
    assert found["verdict.remedy"] == error.verdict.remedies[0]
    assert found["verdict.cause"] == FindingKind.HELD_ACROSS_AWAIT
    assert (found["holder.state"], found["holder.awaiting"]) == ("awaiting", "asyncio sleep")
    assert found["holder.current"].partition(" in ")[0].endswith(f"test_spans.py:{line('# holds')}")
    assert acquired.links[0].context.span_id == held.context.span_id
    assert [event.name for event in held.events] == ["poolguard.blocked_waiter"]
    assert held.links[0].context.span_id == acquired.context.span_id
    assert "SELECT" not in acquired.to_json() + held.to_json() + sdk.named("pool.hold")[0].to_json()


async def test_release_on_a_real_connection(postgres_url, sdk):
    """Who holds over a driver that really awaits is found in its own task, and in SQLAlchemy's greenlets."""
    async with Stage(postgres_url, pool_size=1, guard={"tracer_provider": sdk.provider}) as stage:

        async def hold():
            with sdk.tracer.start_as_current_span("holder"):
                async with AsyncSession(stage.db) as session:
                    await session.execute(SLEEP)

        async def wait():
            with sdk.tracer.start_as_current_span("waiter"):
                async with AsyncSession(stage.db) as session:
                    await session.execute(ONE)

        holder = asyncio.create_task(hold())
        while not stage.db.sync_engine.pool.checkedout():
            await asyncio.sleep(0)
        await asyncio.gather(holder, wait())
    (acquired,), (held,), (waited,) = sdk.named("pool.acquire"), sdk.named("holder"), sdk.named("waiter")
    assert acquired.parent.span_id == waited.context.span_id
    assert waited.start_time <= acquired.start_time <= acquired.end_time <= waited.end_time
    assert acquired.links[0].context.span_id == held.context.span_id
    (event,) = acquired.events
    assert event.name == "poolguard.queue"
    assert acquired.start_time <= event.timestamp <= acquired.end_time
    assert [told.name for told in held.events] == ["poolguard.blocked_waiter"]
