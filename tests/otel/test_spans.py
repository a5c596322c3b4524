"""A span for a wait worth seeing: in the trace of who waited, with true times, and never one too many."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, engine, pool_of, queue_up
from doubles.virtual import turns
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from sqlalchemy import event
from sqlalchemy.exc import StatementError

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, Guard
from sqla_poolguard._otel import _spans

SECOND = 1_000_000_000
LINES = pathlib.Path(__file__).read_text("utf-8").splitlines()


def slow(seconds, **options):
    """Make an engine whose connects take so many virtual seconds."""
    return engine(FakeDriver(connect=Gate.SLOW, delay=seconds), **options)


def attributes(span):
    """Give a span's own attributes by short name."""
    return {key.removeprefix("poolguard."): value for key, value in span.attributes.items()}


async def test_long_wait_is_drawn(sdk):
    """A wait in the queue is a span inside the caller's, as long as the wait was, and tells who waited behind how many."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(name="orders"))

    async def request():
        with sdk.tracer.start_as_current_span("request") as span:
            async with db.connect():  # asks
                await asyncio.sleep(1)
        return span

    async with db.connect():
        first, second = asyncio.create_task(request()), asyncio.create_task(request())
        await asyncio.sleep(2)
    parents = [await first, await second]
    spans = sdk.acquired()
    assert [span.name for span in spans] == [f"pool.acquire {pool_of(db).name}"] * 2
    assert [span.kind for span in spans] == [SpanKind.INTERNAL] * 2
    assert [span.parent.span_id for span in spans] == [parent.get_span_context().span_id for parent in parents]
    assert [span.end_time - span.start_time for span in spans] == [2 * SECOND, 3 * SECOND]
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET] * 2
    code = request.__code__
    line = next(n for n, text in enumerate(LINES, 1) if text.endswith("# asks"))
    assert attributes(spans[1]) == {
        "db.client.connection.pool.name": pool_of(db).name,
        "wait_time": 3.0,
        "queue_time": 3.0,
        "waiters_ahead": 1,
        "outcome": "granted",
        "code.file.path": __file__,
        "code.line.number": line,
        "code.function.name": f"{__name__}.{code.co_qualname}",
        "holder.site": f"otel/test_spans.py:{line} in {code.co_qualname}",
        "holder.held": 1.0,
        "holder.trace_id": format_trace_id(parents[0].get_span_context().trace_id),
        "holder.span_id": format_span_id(parents[0].get_span_context().span_id),
    }


async def test_long_connect_is_drawn(sdk):
    """A wait for a new connection is a span too; it queued for nothing."""
    with sdk.tracer.start_as_current_span("request"):
        await (await slow(0.5).connect()).close()
    (span,) = sdk.acquired()
    assert attributes(span)["wait_time"] == 0.5
    assert attributes(span)["queue_time"] == 0.0
    assert attributes(span)["waiters_ahead"] == 0


@pytest.mark.parametrize(("seconds", "drawn"), [(0.049, 0), (0.051, 1)])
async def test_threshold(sdk, seconds, drawn):
    """A wait is worth seeing from 50 ms on."""
    assert _spans.WORTH_SEEING == 0.05
    with sdk.tracer.start_as_current_span("request"):
        await (await slow(seconds).connect()).close()
    assert len(sdk.acquired()) == drawn


async def test_no_root_is_drawn(sdk):
    """Outside of a span nothing is drawn, whether the wait ends well or badly."""
    db = slow(0.5, pool_size=1, max_overflow=0, pool_timeout=1)
    async with all_out(db, 1):
        with pytest.raises(CheckoutTimeout):
            await db.connect()
    assert sdk.exporter.get_finished_spans() == ()


async def test_nothing_is_drawn_in_a_trace_that_is_not_recorded(sdk):
    """Inside a span that is not sampled nothing is drawn, and nothing beyond that is asked: neither the sampler nor the quota."""
    tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("application")
    db = slow(0.5, pool_size=1, max_overflow=0, pool_timeout=1)
    with tracer.start_as_current_span("request"):
        async with all_out(db, 1):
            with pytest.raises(CheckoutTimeout):
                await db.connect()
    assert sdk.exporter.get_finished_spans() == ()
    assert pool_of(db)._watch.reporter.tracing._quota._lines == {}


async def test_timeout_names_the_holder(sdk):
    """A wait in vain is an error, however short the message, and names the line that holds the longest and for how long."""
    db = engine(pool_size=2, max_overflow=0, pool_timeout=2, guard=Guard(name="orders"))

    async def hold():
        async with db.connect():
            await asyncio.sleep(100)

    holder = asyncio.create_task(hold())
    await asyncio.sleep(5)
    async with db.connect():
        with sdk.tracer.start_as_current_span("request"), pytest.raises(CheckoutTimeout) as caught:
            await db.connect()
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    (span,) = sdk.acquired()
    found = attributes(span)
    assert span.end_time - span.start_time == 2 * SECOND
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == str(caught.value).splitlines()[0]
    assert "\n" not in span.status.description
    assert found["outcome"] == "timeout"
    assert found["error.type"] == "sqla_poolguard.errors.CheckoutTimeout"
    assert found["holder.held"] == 7.0
    assert found["holder.site"].endswith("hold")
    assert found["code.function.name"].endswith("test_timeout_names_the_holder")


async def test_full_queue_is_drawn(sdk):
    """Who is turned away at once gets a span too, though it waited for nothing."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(max_waiting=0))
    async with all_out(db, 1):
        with sdk.tracer.start_as_current_span("request"), pytest.raises(CheckoutRejected):
            await db.connect()
    (span,) = sdk.acquired()
    assert attributes(span)["outcome"] == "queue_full"
    assert attributes(span)["wait_time"] == 0.0
    assert span.status.status_code is StatusCode.ERROR


async def test_cancelled_wait_is_drawn(sdk):
    """A wait that was cancelled shows how long the caller had borne it."""
    db = engine(pool_size=1, max_overflow=0)

    async def request():
        with sdk.tracer.start_as_current_span("request"):
            await db.connect()

    async with all_out(db, 1):
        task = asyncio.create_task(request())
        await asyncio.sleep(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    (span,) = sdk.acquired()
    assert attributes(span)["outcome"] == "cancelled"
    assert attributes(span)["wait_time"] == 3.0
    assert attributes(span)["error.type"] == "asyncio.exceptions.CancelledError"
    assert span.status.status_code is StatusCode.ERROR


async def test_failed_connect_tells_no_sql(sdk):
    """A failed connect is drawn by its type alone: the message of another's error may quote SQL and parameters."""
    db = engine()

    @event.listens_for(db.sync_engine.pool, "connect")
    def fail(*_):
        message = "no"
        raise StatementError(message, "SELECT 'secret'", {"password": "secret"}, None)

    with sdk.tracer.start_as_current_span("request"), pytest.raises(StatementError):
        await db.connect()
    (span,) = sdk.acquired()
    assert attributes(span)["outcome"] == "connect_failed"
    assert attributes(span)["error.type"] == "sqlalchemy.exc.StatementError"
    assert span.status.description is None
    assert "secret" not in span.to_json()


async def test_no_site_no_attributes(sdk):
    """With `capture="off"` a span names no line, and a timeout says that the holder's is not known."""
    db = slow(0.5, pool_size=1, max_overflow=0, pool_timeout=1, guard=Guard(capture="off"))
    with sdk.tracer.start_as_current_span("request"):
        async with all_out(db, 1):
            with pytest.raises(CheckoutTimeout):
                await db.connect()
    connected, timed_out = sdk.acquired()
    assert not any(key.startswith("code.") for key in connected.attributes)
    assert attributes(timed_out)["holder.site"] == "(unknown)"


async def test_builtin_error_has_its_plain_name(sdk):
    """The type of an error of Python's own has no module before it."""
    with sdk.tracer.start_as_current_span("request"), pytest.raises(ConnectionRefusedError):
        await engine(Refusing(), guard=Guard(breaker=False)).connect()
    assert [attributes(span)["error.type"] for span in sdk.acquired()] == ["ConnectionRefusedError"]


class Refusing(FakeDriver):
    """A server that is down."""

    def open(self):
        """Refuse."""
        raise ConnectionRefusedError


async def test_ordinary_traffic_draws_nothing(sdk):
    """Checkouts that need not wait draw nothing, in whatever trace."""
    db = engine()
    with sdk.tracer.start_as_current_span("request"):
        await asyncio.gather(*await queue_up(db, [], *range(20)))
    await turns()
    assert sdk.acquired() == []
