"""What goes over the wire: the spans and metrics of a real application, received by a collector over OTLP/HTTP and OTLP/gRPC."""

from __future__ import annotations

import asyncio
import warnings

import pytest
from doubles.collector import Collector, Scope, values
from doubles.traced import LONG, SOURCE, Traced, line_of, play
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sqlalchemy.exc import SAWarning

from sqla_poolguard._version import own_version

HTTP, GRPC = "http/protobuf", "grpc"
POOL, STATE = "db.client.connection.pool.name", "db.client.connection.state"
BY = (STATE, "poolguard.reason", "poolguard.kind", "poolguard.state")
CUMULATIVE, DELTA = (getattr(metrics_pb2, f"AGGREGATION_TEMPORALITY_{name}") for name in ("CUMULATIVE", "DELTA"))
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
CLOCKS = 50_000_000
"""Nanoseconds by which the monotonic clock, which measures a wait, and the wall clock may differ in these few seconds."""

FAILED = [
    ("timed-out", "timeout", "sqla_poolguard.errors.CheckoutTimeout"),
    ("turned-away", "queue_full", "sqla_poolguard.errors.CheckoutRejected"),
    ("cancelled", "cancelled", "asyncio.exceptions.CancelledError"),
    ("refused", "connect_failed", "ConnectionRefusedError"),
]
"""Pool, outcome, type of the error."""
METRICS = [
    *((f"db.client.connection.{name}", "{connection}", "gauge") for name in ("count", "max", "idle.max", "idle.min")),
    ("db.client.connection.pending_requests", "{request}", "gauge"),
    ("db.client.connection.timeouts", "{timeout}", "counter"),
    *((f"db.client.connection.{name}", "s", "histogram") for name in ("create_time", "wait_time", "use_time")),
    ("poolguard.rejections", "{request}", "counter"),
    ("poolguard.would_reject", "{request}", "counter"),
    ("poolguard.leaks", "{connection}", "counter"),
    ("poolguard.connection.foreign_await_time", "s", "counter"),
    ("poolguard.spans_suppressed", "{span}", "counter"),
    ("poolguard.breaker.state", "{breaker}", "gauge"),
]
"""Name, unit, kind; a gauge is an up-down counter, a sum that is not monotonic."""


@pytest.fixture(scope="module")
def wire(postgres_url):
    """Play every story once; spans and metrics go out by both protocols, metrics cumulative by HTTP and as differences by gRPC."""
    resource = Resource.create({"service.name": "shop"})
    with Collector() as collector:
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(HttpSpans(f"{collector.http}/v1/traces")))
        tracers.add_span_processor(BatchSpanProcessor(GrpcSpans(collector.grpc)))
        delta = dict.fromkeys((Counter, ObservableCounter, Histogram), AggregationTemporality.DELTA)
        exporters = HttpMetrics(f"{collector.http}/v1/metrics"), GrpcMetrics(collector.grpc, preferred_temporality=delta)
        readers = [PeriodicExportingMetricReader(exporter, 3_600_000) for exporter in exporters]
        meters = MeterProvider(readers, resource, shutdown_on_exit=False)

        async def main():
            traced = Traced(postgres_url, tracers, meters)
            await play(traced)
            await asyncio.to_thread(meters.force_flush)
            return traced

        with warnings.catch_warnings(action="ignore", category=SAWarning):  # one connection is left to the garbage collector
            traced = asyncio.run(main())
        tracers.shutdown()
        meters.shutdown()
        yield collector, traced


def acquired(wire):
    """Give the spans of all waits, each once."""
    return [each.item for each in wire[0].spans() if each.protocol == GRPC and each.item.name.startswith("pool.acquire ")]


def wait_of(wire, pool):
    """Give the span of the wait of the request that asked a pool."""
    (span,) = [span for span in acquired(wire) if span.parent_span_id == id_of(request_of(wire, f"ask/{pool}"))]
    return span


def request_of(wire, name):
    """Give the span of a request."""
    return wire[1].requests[f"GET /{name}"]


def test_both_protocols_carry_the_same_spans(wire):
    """Every span comes by both protocols, to the last byte the same."""
    came = {
        protocol: {
            each.item.span_id: each.item.SerializeToString(deterministic=True)
            for each in wire[0].spans()
            if each.protocol == protocol
        }
        for protocol in (HTTP, GRPC)
    }
    assert came[HTTP] == came[GRPC]
    assert len(came[HTTP]) >= len(wire[1].requests) + len(FAILED)


def test_who_says_so(wire):
    """Every span and metric of ours names its scope, version and schema; no other does."""
    received = wire[0].spans() + wire[0].metrics()
    scopes = {each.scope for each in received if each.item.name.startswith(("pool.", "poolguard.", "db.client.connection."))}
    assert scopes == {Scope("sqla_poolguard", own_version(), "https://opentelemetry.io/schemas/1.44.0")}
    assert {each.scope.name for each in received} == {"sqla_poolguard", "application"}
    assert {each.resource["service.name"] for each in received} == {"shop"}


@pytest.mark.parametrize(("pool", "outcome", "error"), FAILED)
def test_failed_wait(wire, pool, outcome, error):
    """A wait that ended badly is an error, with its cause as a type, in the trace of its request."""
    span, request = wait_of(wire, pool), request_of(wire, f"ask/{pool}")
    assert span.name == f"pool.acquire {pool}"
    assert span.kind == Span.SPAN_KIND_INTERNAL
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert span.trace_id == request.context.trace_id.to_bytes(16)
    found = values(span.attributes)
    assert found["poolguard.outcome"] == outcome
    assert found["error.type"] == error
    assert (found["code.file.path"], found["code.line.number"]) == (SOURCE, line_of("asks"))
    assert found["code.function.name"].endswith("ask")
    assert bool(span.links) == (pool != "refused")


@pytest.mark.parametrize("pool", ["granted", "slow-connect"])
def test_wait_that_ended_well(wire, pool):
    """A long wait is drawn without a status, in the trace of its request."""
    span, request = wait_of(wire, pool), request_of(wire, f"ask/{pool}")
    found = values(span.attributes)
    assert span.trace_id == request.context.trace_id.to_bytes(16)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert found["poolguard.outcome"] == "granted"
    assert found["poolguard.wait_time"] >= LONG
    assert (found["poolguard.queue_time"] >= LONG) == (pool == "granted")


@pytest.mark.parametrize("pool", ["granted", "timed-out", "turned-away", "cancelled"])
def test_links_to_the_holder_and_back(wire, pool):
    """A wait for a holder is linked to the span in which it held, with its line; that span has an event and a link to the wait."""
    wait = wait_of(wire, pool)
    request = request_of(wire, f"hold/{pool}")
    (holder,) = [each.item for each in wire[0].spans() if each.protocol == GRPC and each.item.span_id == id_of(request)]
    assert [(link.trace_id, link.span_id) for link in wait.links] == [(holder.trace_id, holder.span_id)]
    assert [values(link.attributes) for link in wait.links] == [{"poolguard.link": "holder"}]
    found = values(wait.attributes)
    assert found["poolguard.holder.trace_id"] == holder.trace_id.hex()
    assert found["poolguard.holder.span_id"] == holder.span_id.hex()
    assert f"traced.py:{line_of('holds')} in " in found["poolguard.holder.site"]
    # when a connection is given, the span of the wait for it is still to be drawn: its request stands for it
    waiter = wait.parent_span_id if pool == "granted" else wait.span_id
    assert [(link.trace_id, link.span_id) for link in holder.links] == [(wait.trace_id, waiter)]
    assert [values(link.attributes) for link in holder.links] == [{"poolguard.link": "waiter"}]
    (event,) = holder.events
    told = values(event.attributes)
    assert event.name == "poolguard.blocked_waiter"
    outcome = "handed_over" if pool == "granted" else found["poolguard.outcome"]
    assert (told["poolguard.waiter.trace_id"], told["poolguard.outcome"]) == (wait.trace_id.hex(), outcome)


@pytest.mark.parametrize(
    ("pool", "phase"), [("granted", "queue"), ("timed-out", "queue"), ("cancelled", "queue"), ("slow-connect", "connect")]
)
def test_phases(wire, pool, phase):
    """What a wait was spent on is an event, with its seconds, at its beginning."""
    span = wait_of(wire, pool)
    (event,) = [event for event in span.events if event.name == f"poolguard.{phase}"]
    seconds = values(event.attributes)["poolguard.duration"]
    assert seconds >= LONG
    assert span.start_time_unix_nano <= event.time_unix_nano
    assert event.time_unix_nano + seconds * 1e9 <= span.end_time_unix_nano + 1e6


def test_hold(wire):
    """A hold across an await is drawn inside its request, and tells what was awaited where."""
    request = request_of(wire, "hold/granted")
    (span,) = [span for span in held(wire, "granted") if span.parent_span_id == id_of(request)]
    found = values(span.attributes)
    assert (span.kind, span.status.code) == (Span.SPAN_KIND_INTERNAL, Status.STATUS_CODE_UNSET)
    assert found["poolguard.found"] == ["held_across_await"]
    assert found["poolguard.ending"] == "checked_in"
    assert (found["code.file.path"], found["code.line.number"]) == (SOURCE, line_of("holds"))
    assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 == pytest.approx(found["poolguard.held"], abs=1e-3)
    (gap,) = [values(event.attributes) for event in span.events if event.name == "poolguard.idle"]
    assert gap["poolguard.awaiting"] == "asyncio Event.wait"
    assert f"traced.py:{line_of('awaits')} in " in gap["poolguard.current"]


def test_leak(wire):
    """A hold that nobody ended is an error, in the trace of whoever took the connection."""
    (span,) = held(wire, "forgotten")
    assert span.trace_id == request_of(wire, "forget/forgotten").context.trace_id.to_bytes(16)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "the connection was never given back")
    found = values(span.attributes)
    assert (found["poolguard.ending"], found["code.line.number"]) == ("leaked", line_of("forgets"))


def held(wire, pool):
    """Give the spans of the holds of a pool."""
    return [each.item for each in wire[0].spans() if each.protocol == GRPC and each.item.name == f"pool.hold {pool}"]


def id_of(span):
    """Give the id of a span of the SDK's as it goes over the wire."""
    return span.context.span_id.to_bytes(8)


def test_times(wire):
    """A wait is as long as it says, and lies within its request."""
    requests = {id_of(request): request for request in wire[1].requests.values()}
    for span in acquired(wire):
        seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        assert seconds == pytest.approx(values(span.attributes)["poolguard.wait_time"], abs=1e-6)
        request = requests[span.parent_span_id]
        assert request.start_time - CLOCKS < span.start_time_unix_nano
        assert span.end_time_unix_nano < request.end_time + CLOCKS


def test_no_sql(wire):
    """No statement is in anything of ours."""
    received = [each for each in wire[0].spans() + wire[0].metrics() if each.scope.name == "sqla_poolguard"]
    assert [each for each in received if b"select 1" in each.item.SerializeToString().lower()] == []


def exported(wire, protocol):
    """Give the metrics of the first export by a protocol, by name; the second, at the shutdown, is like it."""
    found = {}
    for each in wire[0].metrics():
        if each.protocol == protocol:
            found.setdefault(each.item.name, each.item)
    return found


@pytest.mark.parametrize(("protocol", "temporality"), [(HTTP, CUMULATIVE), (GRPC, DELTA)])
@pytest.mark.parametrize(("name", "unit", "kind"), METRICS)
def test_metric(wire, protocol, temporality, name, unit, kind):
    """Every metric has its unit and kind; counters and histograms are cumulative or differences, as the exporter asks, gauges never."""
    metric = exported(wire, protocol)[name]
    assert metric.unit == unit
    assert metric.description
    if kind == "histogram":
        assert metric.histogram.aggregation_temporality == temporality
        assert {tuple(point.explicit_bounds) for point in metric.histogram.data_points} == {BUCKETS}
    else:
        assert metric.sum.is_monotonic == (kind == "counter")
        assert metric.sum.aggregation_temporality == (temporality if kind == "counter" else CUMULATIVE)
        assert {point.WhichOneof("value") for point in metric.sum.data_points} == {"as_double" if unit == "s" else "as_int"}


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_figures(wire, protocol):
    """What the metrics say is what happened, by either protocol."""
    metrics = exported(wire, protocol)
    assert set(metrics) == {name for name, _, _ in METRICS}
    granted = {"granted": 2, "timed-out": 1, "turned-away": 1, "cancelled": 1, "slow-connect": 1, "forgotten": 1}
    for name in ("wait_time", "use_time"):
        points = metrics[f"db.client.connection.{name}"].histogram.data_points
        assert {values(point.attributes)[POOL]: point.count for point in points} == granted
        assert all(sum(point.bucket_counts) == point.count for point in points)
    assert happened(metrics["db.client.connection.timeouts"]) == {("timed-out", None): 1}
    assert happened(metrics["poolguard.rejections"]) == {(pool, outcome): 1 for pool, outcome, _ in FAILED}
    assert happened(metrics["poolguard.leaks"]) == {("forgotten", "garbage_collected"): 1}
    assert happened(metrics["poolguard.spans_suppressed"]) == {}
    assert set(numbers(metrics["db.client.connection.pending_requests"]).values()) == {0}
    assert set(numbers(metrics["db.client.connection.max"]).values()) == {1}
    assert {state for _, state in numbers(metrics["db.client.connection.count"])} == {"idle", "used"}


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_exemplars(wire, protocol):
    """A wait that was long, or in vain, is an exemplar that leads to the trace of its request."""
    metrics = exported(wire, protocol)
    for pool, outcome, _ in FAILED:
        (point,) = [each for each in metrics["poolguard.rejections"].sum.data_points if labels(each) == (pool, outcome)]
        assert [each.trace_id for each in point.exemplars] == [request_of(wire, f"ask/{pool}").context.trace_id.to_bytes(16)]
    (point,) = [each for each in metrics["db.client.connection.wait_time"].histogram.data_points if labels(each)[0] == "granted"]
    assert request_of(wire, "ask/granted").context.trace_id.to_bytes(16) in {each.trace_id for each in point.exemplars}


def labels(point):
    """Give the pool of a data point, and the state, reason or kind, if there is one."""
    attributes = values(point.attributes)
    return attributes[POOL], next((attributes[each] for each in BY if each in attributes), None)


def numbers(metric):
    """Give the values of a metric by pool, and state, reason or kind."""
    return {labels(point): point.as_int for point in metric.sum.data_points}


def happened(metric):
    """Give those that are not 0."""
    return {key: number for key, number in numbers(metric).items() if number}
