"""What readers have told so far, whoever collects and in whatever form."""

from __future__ import annotations

import threading

from opentelemetry.sdk.metrics import Counter, Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricExportResult

from .conftest import BY, POOL

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA


class Heard:
    """What one reader has told so far: sums of what is new, or the latest totals."""

    def __init__(self, temporality):
        self.temporality = temporality
        self.preferred = dict.fromkeys((Counter, Histogram), temporality)
        self._lock = threading.Lock()
        self._points = {}

    def take(self, data):
        """Take what was collected."""
        with self._lock:
            for metric in [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics] if data else ():
                for point in metric.data.data_points:
                    self._point(metric, point)

    def _point(self, metric, point):
        by = next((f" {point.attributes[by]}" for by in BY if by in point.attributes), "")
        key = point.attributes[POOL], metric.name.removeprefix("db.client.connection.") + by
        value = (point.count, point.sum) if hasattr(point, "count") else (point.value,)
        at, before = self._points.get(key, (0, (0,) * len(value)))
        if getattr(metric.data, "aggregation_temporality", None) is DELTA:
            assert self.temporality is DELTA
            value = tuple(map(sum, zip(before, value, strict=True)))
        elif point.time_unix_nano < at:  # what was collected earlier may be exported later
            return
        self._points[key] = point.time_unix_nano, value

    def values(self, pool):
        """Give the figures of one pool."""
        return {name: value if len(value) > 1 else value[0] for (of, name), (_, value) in self._points.items() if of == pool}


class Exporter(MetricExporter):
    """Hands on what it gets."""

    def __init__(self, heard):
        super().__init__(preferred_temporality=heard.preferred)
        self.heard = heard

    def export(self, metrics_data, timeout_millis=10_000, **_):
        """Hand it on."""
        self.heard.take(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis=10_000):
        """Do nothing."""
        return True

    def shutdown(self, timeout_millis=30_000, **_):
        """Do nothing."""
