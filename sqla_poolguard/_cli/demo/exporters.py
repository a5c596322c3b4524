"""OTLP exporters, over HTTP or gRPC, that count what they send. A protocol's packages are imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from sqla_poolguard._cli.demo.clue import Clues
from sqla_poolguard._cli.demo.settings import GRPC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["CountedMetrics", "CountedSpans", "metric_exporter", "span_exporter"]

_TIMEOUT: Final = 5


class CountedSpans(SpanExporter):
    """Counts the spans that it sends, and looks at them. To be put before an exporter among the bases of a class."""

    sent = lost = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.clues = Clues()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send, and count."""
        for span in spans:
            self.clues.see(span)
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.lost += len(spans)
        return result


class CountedMetrics(MetricExporter):
    """Notes which metrics it sends. To be put before an exporter among the bases of a class."""

    lost = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent: set[str] = set()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Send, and note."""
        result = super().export(metrics_data, timeout_millis, **kwargs)  # type: ignore[safe-super]
        names = {m.name for r in metrics_data.resource_metrics for s in r.scope_metrics for m in s.metrics}
        if result is MetricExportResult.SUCCESS:
            self.sent |= names
        else:
            self.lost += 1
        return result


def span_exporter(protocol: str, endpoint: str) -> CountedSpans:
    """Make an exporter of spans."""
    return cast("CountedSpans", _made(CountedSpans, protocol, "trace_exporter", "OTLPSpanExporter", endpoint))


def metric_exporter(protocol: str, endpoint: str) -> CountedMetrics:
    """Make an exporter of metrics."""
    return cast("CountedMetrics", _made(CountedMetrics, protocol, "metric_exporter", "OTLPMetricExporter", endpoint))


def _made(counted: type, protocol: str, module: str, name: str, endpoint: str) -> object:
    package = "grpc" if protocol == GRPC else "http"
    exporter = getattr(import_module(f"opentelemetry.exporter.otlp.proto.{package}.{module}"), name)
    return type(name, (counted, exporter), {})(endpoint=endpoint, timeout=_TIMEOUT)
