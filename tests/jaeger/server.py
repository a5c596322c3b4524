"""A real Jaeger for these tests: one process with memory storage, on free ports of the loopback, and its query API."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 30
STOP_SECONDS = 10
LATEST_SECONDS = 20
"""From sending a span to finding it."""

CONFIG: dict[str, Any] = {
    "service": {
        "extensions": ["jaeger_storage", "jaeger_query"],
        "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
        "telemetry": {"metrics": {"level": "none"}},
    },
    "extensions": {
        "jaeger_query": {"storage": {"traces": "memory"}, "enable_tracing": False},
        "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 100_000}}}},
    },
    "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
}
"""What is not here listens nowhere."""


def binary() -> str:
    """
    Find the program.

    Raises:
        RuntimeError: there is none. That is no reason to skip: whoever asks for these tests wants to know.
    """
    named = os.environ.get("POOLGUARD_JAEGER")
    found = shutil.which(named or "jaeger")
    if found is None:
        msg = (
            f"no Jaeger: {f'POOLGUARD_JAEGER={named} is no program' if named else 'there is no `jaeger` in the PATH'}. "
            "These tests need the program of Jaeger 2 (2.20 or later); give its path as POOLGUARD_JAEGER."
        )
        raise RuntimeError(msg)
    return found


@dataclass(frozen=True)
class Event:
    """Something that happened in a span."""

    name: str
    at: int
    """Nanoseconds of the wall clock."""
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Link:
    """A link to another span."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Span:
    """A span, as Jaeger gives it back."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it has none."""
    name: str
    kind: int
    """As in OTLP: 1 is internal, 2 is a server's."""
    start: int
    end: int
    status: int
    """As in OTLP: 0 is unset, 2 is an error."""
    message: str
    scope: tuple[str, str]
    """Name and version."""
    service: str
    attributes: dict[str, Any] = field(repr=False)
    events: list[Event] = field(repr=False)
    links: list[Link] = field(repr=False)


class Jaeger:
    """Runs while it is entered."""

    def __init__(self) -> None:
        self._ended = ExitStack()
        self.http = self.grpc = self.query = ""
        """Addresses of OTLP over HTTP and gRPC, and of the query API."""

    def __enter__(self):
        program, folder = binary(), Path(self._ended.enter_context(tempfile.TemporaryDirectory(prefix="jaeger-")))
        http, grpc, query, query_grpc = addresses = _free_addresses(4)
        config = json.loads(json.dumps(CONFIG))
        config["receivers"] = {"otlp": {"protocols": {"http": {"endpoint": http}, "grpc": {"endpoint": grpc}}}}
        config["extensions"]["jaeger_query"] |= {"http": {"endpoint": query}, "grpc": {"endpoint": query_grpc}}
        (folder / "config.json").write_text(json.dumps(config))
        self._log = folder / "log"
        self.http, self.grpc, self.query = (f"http://{address}" for address in addresses[:3])
        self._client = self._ended.enter_context(httpx.Client(base_url=self.query, trust_env=False, timeout=10))
        with self._log.open("wb") as log:
            command = (program, "--config", str(folder / "config.json"))
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        self._ended.callback(self._stop)
        try:
            self._wait_for_start()
        except BaseException:
            self._ended.close()
            raise
        return self

    def __exit__(self, *_):
        self._ended.close()

    def _wait_for_start(self):
        end = time.monotonic() + START_SECONDS
        while "Everything is ready" not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > end:
                msg = f"Jaeger did not start:\n{self._log.read_text(errors='replace')[-2000:]}"
                raise RuntimeError(msg)
            time.sleep(0.05)

    def _stop(self):
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def services(self) -> list[str]:
        """Name the services that sent anything."""
        return self._client.get("/api/v3/services").raise_for_status().json()["services"]

    def operations(self, service: str) -> set[tuple[str, str]]:
        """Give (name, kind) of what a service does."""
        answer = self._client.get("/api/v3/operations", params={"service": service}).raise_for_status().json()
        return {(each["name"], each["spanKind"]) for each in answer["operations"]}

    def trace(self, trace_id: str, *wanted: str) -> list[Span]:
        """Give the spans of a trace as they came, in the order of their beginnings; wait until those of these names are there."""
        end = time.monotonic() + LATEST_SECONDS
        while True:
            answer = self._client.get(f"/api/v3/traces/{trace_id}", params={"rawTraces": "true"})
            spans = _spans(answer.raise_for_status().json()) if answer.status_code != httpx.codes.NOT_FOUND else []
            if {span.name for span in spans} >= set(wanted) and spans:
                return spans
            assert time.monotonic() < end, f"trace {trace_id} has {[span.name for span in spans]}, not all of {wanted}"
            time.sleep(0.05)

    def find(self, service: str, operation: str, depth: int = 100, **attributes: str) -> list[Span]:
        """Search as a person does, by service, operation and tags; gives all spans of the traces found."""
        params = {
            "query.serviceName": service,
            "query.operationName": operation,
            "query.startTimeMin": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600)),
            "query.startTimeMax": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600)),
            "query.searchDepth": str(depth),
        }
        if attributes:
            params["query.attributes"] = json.dumps(attributes)
        answer = self._client.get("/api/v3/traces", params=params)
        return _spans(answer.raise_for_status().json()) if answer.status_code != httpx.codes.NOT_FOUND else []


def _free_addresses(count):
    with ExitStack() as stack:
        doors = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{door.getsockname()[1]}" for door in doors]


def _spans(answer):
    found = [
        _span(span, scoped, _values(part.get("resource", {}).get("attributes", ())))
        for part in answer["result"]["resourceSpans"]
        for scoped in part["scopeSpans"]
        for span in scoped["spans"]
    ]
    return sorted(found, key=lambda span: span.start)


def _span(span, scoped, resource):
    scope, status = scoped.get("scope", {}), span.get("status", {})
    return Span(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        name=span["name"],
        kind=span["kind"],
        start=int(span["startTimeUnixNano"]),
        end=int(span["endTimeUnixNano"]),
        status=status.get("code", 0),
        message=status.get("message", ""),
        scope=(scope.get("name", ""), scope.get("version", "")),
        service=resource.get("service.name", ""),
        attributes=_values(span.get("attributes", ())),
        events=[Event(e["name"], int(e["timeUnixNano"]), _values(e.get("attributes", ()))) for e in span.get("events", ())],
        links=[Link(e["traceId"], e["spanId"], _values(e.get("attributes", ()))) for e in span.get("links", ())],
    )


def _values(attributes):
    return {each["key"]: _value(each["value"]) for each in attributes}


def _value(value):
    ((kind, found),) = value.items()
    if kind == "arrayValue":
        return [_value(each) for each in found.get("values", ())]
    return int(found) if kind == "intValue" else found
