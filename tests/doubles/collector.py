"""An OTLP collector in this process: takes spans and metrics over HTTP and gRPC, and gives back what was on the wire."""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

if TYPE_CHECKING:
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Scope(NamedTuple):
    """Who made something: the instrumentation scope, and the schema that its names follow."""

    name: str
    version: str
    schema_url: str


@dataclass(frozen=True)
class Received:
    """A span or a metric, as it came."""

    protocol: str
    """`http/protobuf` or `grpc`."""
    resource: dict[str, Any]
    scope: Scope
    item: Span | Metric


def values(attributes):
    """Give attributes as a dict of plain values."""
    return {each.key: _value(each.value) for each in attributes}


def _value(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


class Collector:
    """Listens while it is entered, on free ports of the loopback. With `metrics=False` it takes none, as Jaeger."""

    def __init__(self, *, metrics: bool = True) -> None:
        self.takes_metrics = metrics
        self.requests: list[tuple[str, Any]] = []
        """(protocol, message), in the order in which they came; empty ones, which only ask, are not among them."""
        self.break_for: str | None = None
        """Name of the kind of message over which its gRPC service breaks."""
        self.http = self.grpc = ""
        """Where it listens."""

    def __enter__(self):
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.http = f"http://127.0.0.1:{self._http.server_port}"
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        trace_grpc.add_TraceServiceServicer_to_server(_Service(self, trace_service.ExportTraceServiceResponse), self._grpc)
        if self.takes_metrics:
            service = _Service(self, metrics_service.ExportMetricsServiceResponse)
            metrics_grpc.add_MetricsServiceServicer_to_server(service, self._grpc)
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        self.grpc = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._grpc.stop(None).wait()

    def address(self, protocol):
        """Tell where it listens for a protocol."""
        return {"http/protobuf": self.http, "grpc": self.grpc}[protocol]

    def take(self, protocol, message):
        """Keep a message."""
        if message.ByteSize():
            self.requests.append((protocol, message))

    def spans(self):
        """Give every span that came."""
        return [
            Received(protocol, values(part.resource.attributes), _scope(scoped), span)
            for protocol, message in self.requests
            for part in getattr(message, "resource_spans", ())
            for scoped in part.scope_spans
            for span in scoped.spans
        ]

    def metrics(self):
        """Give every metric that came, once for each export."""
        return [
            Received(protocol, values(part.resource.attributes), _scope(scoped), metric)
            for protocol, message in self.requests
            for part in getattr(message, "resource_metrics", ())
            for scoped in part.scope_metrics
            for metric in scoped.metrics
        ]


def _scope(scoped):
    return Scope(scoped.scope.name, scoped.scope.version, scoped.schema_url)


class _Service(trace_grpc.TraceServiceServicer, metrics_grpc.MetricsServiceServicer):
    """One of the two gRPC services."""

    def __init__(self, collector, response):
        self._collector = collector
        self._response = response

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        """Take a message."""
        if type(request).__name__ == self._collector.break_for:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        self._collector.take("grpc", request)
        return self._response()


def _handler(collector):
    kinds = {"/v1/traces": (trace_service.ExportTraceServiceRequest, trace_service.ExportTraceServiceResponse)}
    if collector.takes_metrics:
        kinds["/v1/metrics"] = (metrics_service.ExportMetricsServiceRequest, metrics_service.ExportMetricsServiceResponse)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            answer, status = b"", 404
            if self.path in kinds and self.headers["Content-Type"] == "application/x-protobuf":
                request, response = kinds[self.path]
                collector.take("http/protobuf", request.FromString(body))
                answer, status = response().SerializeToString(), 200
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_args):
            """Stay silent."""

    return Handler
