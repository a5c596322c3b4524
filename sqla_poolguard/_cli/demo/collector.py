"""Is there a collector? Asked before the demo begins, so that nobody waits half a minute to read that there is none."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, urlsplit

import httpx

from sqla_poolguard._cli.demo.settings import GRPC, HTTP
from sqla_poolguard._cli.demo.trouble import DemoError

__all__ = ["Collector", "find_collector"]

_TIMEOUT: Final = 5.0
_GRPC_PORT: Final = 4317
_SIGNALS: Final = ("/v1/traces", "/v1/metrics", "/v1/logs")
_TAKES_NO_METRICS: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans and metrics go."""

    url: str
    """What the user said, without the signal's path and without a password."""
    protocol: str
    """How they go there: `GRPC` or `HTTP`."""
    traces: str
    """Where spans go."""
    metrics: str | None
    """Where metrics go; None if it takes none, as Jaeger."""


def find_collector(url: str, protocol: str | None) -> Collector:
    """
    Send the collector an empty message of each kind.

    Args:
        url: its address, as in OTEL_EXPORTER_OTLP_ENDPOINT: the scheme is http or https for either protocol.
        protocol: `GRPC` or `HTTP`; None: gRPC at its own port, 4317, HTTP anywhere else.

    Raises:
        DemoError: there is none, or it does not speak this protocol.
    """
    base = url.rstrip("/")
    for path in _SIGNALS:
        base = base.removesuffix(path)
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"--otlp wants an address such as http://localhost:4318, not {shown!r}."
        raise DemoError(msg)
    if protocol is None:
        protocol = GRPC if port == _GRPC_PORT else HTTP
    return _find_grpc(parts, shown) if protocol == GRPC else _find_http(base, shown)


def _find_http(base: str, shown: str) -> Collector:
    importlib.import_module("opentelemetry.exporter.otlp.proto.http")  # if it is missing, it should be missed now
    traces = _post(base, "/v1/traces", shown)
    if traces != HTTPStatus.OK:
        msg = (
            f"{shown}/v1/traces answered {traces} to an empty OTLP message: is that the OTLP/HTTP port (usually 4318) "
            "of a collector or of Jaeger? For OTLP/gRPC (usually 4317) say --otlp-protocol grpc."
        )
        raise DemoError(msg)
    metrics = _post(base, "/v1/metrics", shown)
    if metrics != HTTPStatus.OK and metrics not in _TAKES_NO_METRICS:
        msg = f"{shown}/v1/metrics answered {metrics} to an empty OTLP message: look into the collector's log."
        raise DemoError(msg)
    return Collector(shown, HTTP, f"{base}/v1/traces", f"{base}/v1/metrics" if metrics == HTTPStatus.OK else None)


def _post(base: str, path: str, shown: str) -> int:
    try:
        return httpx.post(
            base + path, content=b"", headers={"Content-Type": "application/x-protobuf"}, timeout=_TIMEOUT
        ).status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        # somebody who listens and talks something else is probably the gRPC port
        hint = " (for OTLP/gRPC, usually port 4317, say --otlp-protocol grpc)" if isinstance(error, httpx.ProtocolError) else ""
        msg = f"cannot reach an OTLP collector at {shown} ({_why(error)}): start one there, or leave --otlp out{hint}."
        raise DemoError(msg) from error


def _find_grpc(parts: SplitResult, shown: str) -> Collector:
    if "@" in parts.netloc:
        msg = f"--otlp takes no user and password with gRPC ({shown}): put them into OTEL_EXPORTER_OTLP_HEADERS."
        raise DemoError(msg)
    try:
        from sqla_poolguard._cli.demo.grpc_collector import ask  # noqa: PLC0415 - needs a package that not everybody has
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "sqla_poolguard":
            raise
        msg = (
            f"--otlp over gRPC needs a package that is not installed ({error.name!r}): "
            'pip install "sqla-poolguard[otel-grpc]", or use OTLP/HTTP (usually port 4318).'
        )
        raise DemoError(msg) from error
    answer = ask(parts, _TIMEOUT)
    if answer.trouble is not None:
        msg = (
            f"cannot reach an OTLP/gRPC collector at {shown} ({answer.trouble}): start one there (usually at port 4317), "
            "say --otlp-protocol http/protobuf, or leave --otlp out."
        )
        raise DemoError(msg)
    return Collector(shown, GRPC, shown, shown if answer.takes_metrics else None)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
