"""OpenTelemetry in the server process: spans and metrics to an OTLP collector, and one span for each request."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from sqla_poolguard._cli.demo.exporters import metric_exporter, span_exporter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["RequestSpans", "Telemetry"]

_SERVICE: Final = "poolguard-demo"
_FLUSH_MILLISECONDS: Final = 10_000
_METRICS_EVERY_MILLISECONDS: Final = 2_000
_QUEUE: Final = 20_000


class Telemetry:
    """The SDK, set up for the whole process. Make it before the engines, as an application would."""

    def __init__(self, protocol: str, traces: str, metrics_url: str | None) -> None:
        resource = Resource.create({"service.name": _SERVICE})
        self._spans = span_exporter(protocol, traces)
        self._tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._tracer_provider.add_span_processor(BatchSpanProcessor(self._spans, max_queue_size=_QUEUE))
        trace.set_tracer_provider(self._tracer_provider)
        self._metrics = self._meter_provider = None
        if metrics_url is not None:
            self._metrics = metric_exporter(protocol, metrics_url)
            reader = PeriodicExportingMetricReader(self._metrics, _METRICS_EVERY_MILLISECONDS)
            self._meter_provider = MeterProvider([reader], resource, shutdown_on_exit=False)
            metrics.set_meter_provider(self._meter_provider)

    def flush(self) -> dict[str, Any]:
        """Send what is left. Blocks. Gives `spans` sent, `metrics` sent by name, `lost` of either, and what to `look_at`."""
        self._tracer_provider.force_flush(_FLUSH_MILLISECONDS)
        if self._meter_provider is not None:
            self._meter_provider.force_flush(_FLUSH_MILLISECONDS)
        names = sorted(self._metrics.sent) if self._metrics else []
        lost = self._spans.lost + (self._metrics.lost if self._metrics else 0)
        clue = self._spans.clues.best()
        return {"spans": self._spans.sent, "metrics": names, "lost": lost, "look_at": clue.to_json() if clue else None}

    def shutdown(self) -> None:
        """End the SDK's threads. Blocks."""
        self._tracer_provider.shutdown()
        if self._meter_provider is not None:
            self._meter_provider.shutdown()


class RequestSpans:
    """ASGI middleware: a server span for each request to a shop, so that a wait for a connection has a parent."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._tracer = trace.get_tracer("poolguard.demo")

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith("/control/"):
            await self._app(scope, receive, send)
            return
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"], "url.scheme": scope["scheme"]}
        name = f"{scope['method']} {scope['path']}"
        with self._tracer.start_as_current_span(name, kind=trace.SpanKind.SERVER, attributes=attributes) as span:

            async def send_and_note(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
                        span.set_status(trace.StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, send_and_note)
