"""Is there a collector? Asked before the demo begins, so that nobody waits half a minute to read that there is none."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import httpx

from sqla_poolguard._cli.trouble import DemoError

__all__ = ["Collector", "find_collector"]

_TIMEOUT: Final = 5.0
_SIGNALS: Final = ("/v1/traces", "/v1/metrics", "/v1/logs")
_TAKES_NO_METRICS: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans and metrics go."""

    url: str
    """What the user said, without the signal's path and without a password."""
    traces: str
    """Where spans go."""
    metrics: str | None
    """Where metrics go; None if it takes none, as Jaeger."""


def find_collector(url: str) -> Collector:
    """
    Send the collector an empty message of each kind.

    Raises:
        DemoError: there is none, or it does not speak OTLP/HTTP.
    """
    importlib.import_module("opentelemetry.exporter.otlp.proto.http")  # if it is missing, it should be missed now
    base = url.rstrip("/")
    for path in _SIGNALS:
        base = base.removesuffix(path)
    parts = urlsplit(base)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"--otlp wants an address such as http://localhost:4318, not {shown!r}."
        raise DemoError(msg)
    traces = _post(base, "/v1/traces", shown)
    if traces != HTTPStatus.OK:
        msg = (
            f"{shown}/v1/traces answered {traces} to an empty OTLP message: is that the OTLP/HTTP port (usually 4318) "
            "of a collector or of Jaeger?"
        )
        raise DemoError(msg)
    metrics = _post(base, "/v1/metrics", shown)
    if metrics != HTTPStatus.OK and metrics not in _TAKES_NO_METRICS:
        msg = f"{shown}/v1/metrics answered {metrics} to an empty OTLP message: look into the collector's log."
        raise DemoError(msg)
    return Collector(shown, f"{base}/v1/traces", f"{base}/v1/metrics" if metrics == HTTPStatus.OK else None)


def _post(base: str, path: str, shown: str) -> int:
    try:
        return httpx.post(
            base + path, content=b"", headers={"Content-Type": "application/x-protobuf"}, timeout=_TIMEOUT
        ).status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        why = str(error) or type(error).__name__
        msg = f"cannot reach an OTLP collector at {shown} ({why}): start one there, or leave --otlp out."
        raise DemoError(msg) from error
