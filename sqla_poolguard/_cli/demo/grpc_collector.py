"""A collector that speaks OTLP/gRPC: asks it what it takes. The one module of the demo that needs the gRPC exporter's packages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter  # noqa: F401 - if it is missing, it should be missed now
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

if TYPE_CHECKING:
    from urllib.parse import SplitResult

__all__ = ["Answer", "ask"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a collector said to an empty message of each kind."""

    trouble: str | None = None
    """Why it takes nothing; None if it takes spans."""
    takes_metrics: bool = False
    """Whether it takes metrics, too."""


def ask(parts: SplitResult, seconds: float) -> Answer:
    """
    Send it an empty message of each kind.

    Args:
        parts: its address; with the scheme https it is asked over TLS, as the exporter does.
        seconds: how long to wait for each answer.
    """
    with _channel(parts) as channel:
        try:
            TraceServiceStub(channel).Export(ExportTraceServiceRequest(), timeout=seconds)  # type: ignore[no-untyped-call]
        except grpc.RpcError as error:
            return Answer(_why(error))
        try:
            MetricsServiceStub(channel).Export(ExportMetricsServiceRequest(), timeout=seconds)  # type: ignore[no-untyped-call]
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return Answer()
            return Answer(_why(error))
    return Answer(takes_metrics=True)


def _channel(parts: SplitResult) -> grpc.Channel:
    if parts.scheme == "https":
        return grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials())
    return grpc.insecure_channel(parts.netloc)


def _why(error: grpc.RpcError) -> str:
    """Quote a failed call in one line."""
    details = " ".join((error.details() or "").split())
    return f"{error.code().name}: {details}" if details else str(error.code().name)
