"""An OpenTelemetry SDK of each test's own, in place of the global one, and virtual time."""

from __future__ import annotations

import pytest
from doubles.virtual import VirtualLoop
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sqla_poolguard._otel import _providers
from sqla_poolguard._otel._metrics import Metrics
from sqla_poolguard._otel._spans import Spans

POOL = "db.client.connection.pool.name"
BY = ("db.client.connection.state", "poolguard.reason", "poolguard.kind", "poolguard.state")
DELTA = dict.fromkeys((Counter, Histogram), AggregationTemporality.DELTA)


def pytest_asyncio_loop_factories(config, item):
    """Run every coroutine test in a loop whose clock is virtual."""
    return {"virtual": VirtualLoop}


class Reader(InMemoryMetricReader):
    """A reader that finds things."""

    def metrics(self):
        """Collect, and give every metric by name."""
        data = self.get_metrics_data()
        resources = data.resource_metrics if data is not None else []
        return {m.name: m for r in resources for scope in r.scope_metrics for m in scope.metrics}

    def points(self, pool=None):
        """Collect, and give every data point by short name, with the state, reason or kind if there is one, of one pool."""
        found = {}
        for name, metric in self.metrics().items():
            for point in metric.data.data_points:
                if pool in (None, point.attributes.get(POOL)):
                    state = next((point.attributes[by] for by in BY if by in point.attributes), None)
                    short = name.removeprefix("db.client.connection.")
                    key = f"{short} {state}" if state else short
                    assert key not in found, "one pool, one series"
                    found[key] = point
        return found

    def values(self, pool=None):
        """Collect, and give figures: values, or (count, sum) of a histogram."""
        points = self.points(pool).items()
        return {key: (p.count, p.sum) if hasattr(p, "count") else p.value for key, p in points}


class Sdk:
    """A meter provider and a tracer provider that remember."""

    def __init__(self, *readers, meter_provider=None):
        self.readers = readers
        self.provider = meter_provider or MeterProvider(readers, shutdown_on_exit=False)
        self.metrics = Metrics(self.provider.get_meter("sqla_poolguard"))
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracer_provider.get_tracer("application")
        self.spans = Spans(self.tracer_provider.get_tracer("sqla_poolguard"))

    def values(self, pool=None):
        """Collect from the first reader."""
        return self.readers[0].values(pool)

    def acquired(self):
        """Give our own spans."""
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith("pool.acquire")]


@pytest.fixture
def use(monkeypatch):
    """Let engines that are made from now on use an SDK with these readers."""
    made = []

    def use(*readers, **options):
        sdk = Sdk(*readers, **options)
        monkeypatch.setattr(_providers, "_global_metrics", lambda: sdk.metrics)
        monkeypatch.setattr(_providers, "_global_spans", lambda: sdk.spans)
        made.append(sdk)
        return sdk

    yield use
    for sdk in made:
        sdk.provider.shutdown()
        sdk.tracer_provider.shutdown()


@pytest.fixture
def sdk(use):
    """Let engines use an SDK with one cumulative reader."""
    return use(Reader())


@pytest.fixture
def cumulative_and_delta(use):
    """Let engines use an SDK with two readers."""
    return use(Reader(), Reader(preferred_temporality=DELTA))
