"""Every kind of span that this library draws goes through a real Jaeger and comes back as it was."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING

import pytest
from doubles.traced import LONG, SOURCE, TIMEOUT, Traced, line_of, play
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id
from sqlalchemy.exc import SAWarning

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

INTERNAL, ERROR, UNSET = 1, 2, 0


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def sent(request, jaeger, postgres_url):
    """Play every story, with an application whose spans go to Jaeger; gives the application, and what its SDK had to send."""
    protocol = request.param
    service = f"shop-{protocol.partition('/')[0]}"
    tracers = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    exporter = HttpSpans(f"{jaeger.http}/v1/traces") if protocol != "grpc" else GrpcSpans(jaeger.grpc)
    memory = InMemorySpanExporter()
    tracers.add_span_processor(BatchSpanProcessor(exporter))
    tracers.add_span_processor(SimpleSpanProcessor(memory))
    traced = Traced(postgres_url, tracers, MeterProvider(shutdown_on_exit=False), f"{service}-")
    with warnings.catch_warnings(action="ignore", category=SAWarning):  # one connection is left to the garbage collector
        asyncio.run(play(traced))
    tracers.shutdown()
    return protocol, service, traced, memory.get_finished_spans()


def ids(span: ReadableSpan):
    """Give the ids of a span as Jaeger writes them."""
    return format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)


def plain(attributes):
    """Give attributes as they come back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in (attributes or {}).items()}


def check_that_nothing_is_changed(jaeger, sent, table):
    """Names, parents, kinds, times, status, attributes, events and links of every span are what the SDK sent."""
    protocol, service, _, spans = sent
    table.about(f"all spans of the application, over {protocol}")
    found = {
        (span.trace_id, span.span_id): span
        for trace in {ids(span)[0] for span in spans}
        for span in jaeger.trace(trace, *(each.name for each in spans if ids(each)[0] == trace))
    }
    table.equal("service", {span.service for span in found.values()}, {service})
    table.equal("spans, each once", len(found), len(spans))
    by_id = {ids(span): span for span in spans}
    for what, there, here in (
        ("name", lambda s: s.name, lambda s: s.name),
        ("parent", lambda s: s.parent_id, lambda s: format_span_id(s.parent.span_id) if s.parent else ""),
        ("kind", lambda s: s.kind, lambda s: s.kind.value + 1),
        ("times, to the nanosecond", lambda s: (s.start, s.end), lambda s: (s.start_time, s.end_time)),
        ("status", lambda s: (s.status, s.message), lambda s: (s.status.status_code.value, s.status.description or "")),
        ("scope", lambda s: s.scope, lambda s: (s.instrumentation_scope.name, s.instrumentation_scope.version or "")),
        ("attributes", lambda s: s.attributes, lambda s: plain(s.attributes)),
        (
            "events",
            lambda s: sorted((e.name, e.at, sorted(e.attributes.items())) for e in s.events),
            lambda s: sorted((e.name, e.timestamp, sorted(plain(e.attributes).items())) for e in s.events),
        ),
        (
            "links",
            lambda s: [(e.trace_id, e.span_id, e.attributes) for e in s.links],
            lambda s: [
                (format_trace_id(e.context.trace_id), format_span_id(e.context.span_id), plain(e.attributes)) for e in s.links
            ],
        ),
    ):
        differs = {key: (there(span), here(by_id[key])) for key, span in found.items() if there(span) != here(by_id[key])}
        assert differs == {}, what
        table.holds(what, f"as sent, of {len(found)} spans", found)
    table.holds("events in all", sum(len(span.events) for span in found.values()), any(span.events for span in found.values()))
    table.holds("links in all", sum(len(span.links) for span in found.values()), any(span.links for span in found.values()))


def check_wait_that_ended_well(jaeger, sent, table):
    """A wait leads to the request whose release ended it, and that request's own span leads back."""
    protocol, _, traced, _ = sent
    table.about(f"GET /ask/granted, which waited until GET /hold/granted gave its connection back, over {protocol}")
    span, holder = acquire(jaeger, traced, "ask/granted"), request(jaeger, traced, "hold/granted")
    table.equal("span", span.name, f"pool.acquire {traced.prefix}granted")
    table.equal("kind, status", (span.kind, span.status), (INTERNAL, UNSET))
    table.equal("poolguard.outcome", span.attributes["poolguard.outcome"], "granted")
    seconds = span.attributes["poolguard.wait_time"]
    table.holds("poolguard.wait_time", seconds, seconds >= LONG and abs((span.end - span.start) / 1e9 - seconds) < 1e-6)
    table.equal("who asked", (span.attributes["code.file.path"], span.attributes["code.line.number"]), (SOURCE, line_of("asks")))
    table.equal(
        "link", [(link.trace_id, link.attributes) for link in span.links], [(holder.trace_id, {"poolguard.link": "holder"})]
    )
    table.equal("poolguard.holder.trace_id", span.attributes["poolguard.holder.trace_id"], holder.trace_id)
    site = span.attributes["poolguard.holder.site"]
    table.holds("poolguard.holder.site", site, f"traced.py:{line_of('holds')} in " in site)
    (queue,) = [event for event in span.events if event.name == "poolguard.queue"]
    table.holds("event poolguard.queue", queue.attributes, queue.attributes["poolguard.duration"] >= LONG)
    (blocked,) = [event for event in holder.events if event.name == "poolguard.blocked_waiter"]
    table.equal("on the holder: whom it kept waiting", blocked.attributes["poolguard.waiter.trace_id"], span.trace_id)
    table.equal("on the holder: link", [link.trace_id for link in holder.links], [span.trace_id])


def check_hold(jaeger, sent, table):
    """A hold across an await is a span in the trace of the holder, with what was awaited where."""
    protocol, _, traced, _ = sent
    table.about(f"GET /hold/granted, which held its connection while it awaited something else, over {protocol}")
    span = only(jaeger, traced, "hold/granted", f"pool.hold {traced.prefix}granted")
    table.equal("kind, status", (span.kind, span.status), (INTERNAL, UNSET))
    table.equal("poolguard.found", span.attributes["poolguard.found"], ["held_across_await"])
    table.equal("poolguard.ending", span.attributes["poolguard.ending"], "checked_in")
    table.holds("poolguard.held", span.attributes["poolguard.held"], span.attributes["poolguard.held"] >= LONG)
    where = span.attributes["code.file.path"], span.attributes["code.line.number"]
    table.equal("where it took the connection", where, (SOURCE, line_of("holds")))
    (gap,) = [event for event in span.events if event.name == "poolguard.idle"]
    table.holds(
        "event poolguard.idle: what it awaited",
        gap.attributes["poolguard.awaiting"],
        "Event.wait" in gap.attributes["poolguard.awaiting"],
    )
    table.holds(
        "event poolguard.idle: where",
        gap.attributes["poolguard.current"],
        f"traced.py:{line_of('awaits')} in " in gap.attributes["poolguard.current"],
    )


def check_leak(jaeger, sent, table):
    """A connection that was never given back is a span in error, in the trace of who took it."""
    protocol, _, traced, _ = sent
    table.about(f"GET /forget/forgotten, which never gave its connection back, over {protocol}")
    span = only(jaeger, traced, "forget/forgotten", f"pool.hold {traced.prefix}forgotten")
    table.equal("status", (span.status, span.message), (ERROR, "the connection was never given back"))
    table.equal(
        "poolguard.ending, found",
        (span.attributes["poolguard.ending"], span.attributes["poolguard.found"]),
        ("leaked", ["held_across_await", "leaked"]),
    )
    where = span.attributes["code.file.path"], span.attributes["code.line.number"]
    table.equal("where it took the connection", where, (SOURCE, line_of("forgets")))


@pytest.mark.parametrize(
    ("pool", "outcome", "error", "linked"),
    [
        ("timed-out", "timeout", "sqla_poolguard.errors.CheckoutTimeout", True),
        ("turned-away", "queue_full", "sqla_poolguard.errors.CheckoutRejected", True),
        ("cancelled", "cancelled", "asyncio.exceptions.CancelledError", True),
        ("refused", "connect_failed", "ConnectionRefusedError", False),
    ],
)
def check_failed_wait(jaeger, sent, table, pool, outcome, error, linked):
    """A wait that ended badly is an error; if it was the holders' fault it leads to them."""
    protocol, _, traced, _ = sent
    table.about(f"GET /ask/{pool}, over {protocol}")
    span = acquire(jaeger, traced, f"ask/{pool}")
    table.equal("status", span.status, ERROR)
    table.equal("poolguard.outcome", span.attributes["poolguard.outcome"], outcome)
    table.equal("error.type", span.attributes["error.type"], error)
    if pool == "timed-out":
        seconds = (span.end - span.start) / 1e9
        table.holds("as long as pool_timeout", seconds, TIMEOUT <= seconds < TIMEOUT + 5)
        table.holds("message", span.message, span.message.startswith("no connection after "))
    holders = [link.trace_id for link in span.links]
    if not linked:
        table.equal("links", holders, [])
        return
    holder = request(jaeger, traced, f"hold/{pool}")
    table.equal("link to the holder", holders, [holder.trace_id])
    site = span.attributes["poolguard.holder.site"]
    table.holds("poolguard.holder.site", site, f"traced.py:{line_of('holds')} in " in site)
    table.equal("on the holder: link back", [link.trace_id for link in holder.links], [span.trace_id])


def check_slow_connect(jaeger, sent, table):
    """A wait for a slow server is no holder's fault, and says so by its phases."""
    protocol, _, traced, _ = sent
    table.about(f"GET /ask/slow-connect, over {protocol}")
    span = acquire(jaeger, traced, "ask/slow-connect")
    table.equal("poolguard.outcome", span.attributes["poolguard.outcome"], "granted")
    table.equal("links", span.links, [])
    (connect,) = [event for event in span.events if event.name == "poolguard.connect"]
    table.holds("event poolguard.connect", connect.attributes, connect.attributes["poolguard.duration"] >= LONG)


def request(jaeger, traced, path):
    """Give the span of a request."""
    span = traced.requests[f"GET /{path}"]
    (found,) = [each for each in jaeger.trace(ids(span)[0], f"GET /{path}") if each.span_id == ids(span)[1]]
    return found


def acquire(jaeger, traced, path):
    """Give the span of a request's wait, which is its child."""
    return only(jaeger, traced, path, f"pool.acquire {traced.prefix}{path.partition('/')[2]}")


def only(jaeger, traced, path, name):
    """Give the one child of a request that has this name."""
    trace, parent = ids(traced.requests[f"GET /{path}"])
    (found,) = [span for span in jaeger.trace(trace, name) if span.name == name and span.parent_id == parent]
    return found
