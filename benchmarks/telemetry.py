"""OpenTelemetry's SDK for the rivals that have one: spans are queued for nobody, metrics are kept in memory."""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING, Any

import sqlalchemy.engine
import sqlalchemy.engine.create
import sqlalchemy.ext.asyncio

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["MISSING", "exporting", "instrument"]

MISSING: str | None = None
"""Why there is no SDK; None: there is one."""

try:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
except ModuleNotFoundError as error:
    MISSING = f"{error.name} is not installed"
else:

    class _Queue(SpanProcessor):
        """
        What a batch processor does where the span ends: put it into a bounded queue.

        There is no thread that empties it: it would take time from every rival, not only from the one that draws spans.
        """

        def __init__(self) -> None:
            self._spans: deque[Any] = deque(maxlen=2048)

        def on_end(self, span: Any) -> None:
            self._spans.append(span)


@functools.cache
def _providers() -> tuple[Any, Any]:
    """Make the SDK, once; it is given to each rival by hand, so that the others stay without."""
    tracers = TracerProvider()
    tracers.add_span_processor(_Queue())
    return tracers, MeterProvider([InMemoryMetricReader()])


_WRAPPED = (
    (sqlalchemy, "create_engine"),
    (sqlalchemy.engine, "create_engine"),
    (sqlalchemy.engine.create, "create_engine"),
    (sqlalchemy.ext.asyncio, "create_async_engine"),
    (sqlalchemy.engine.Engine, "connect"),
)


def instrument(engine: AsyncEngine) -> None:
    """
    Do to one engine what `SQLAlchemyInstrumentor().instrument(engine=engine)` does to it and, in part, to all others.

    It wraps `Engine.connect` for every engine in the process. Here the wrapper is given to this engine alone:
    stock and GuardedPool, in the same process, are to stay as they are.
    """
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor  # noqa: PLC0415 - a rival's, wanted only here

    tracers, meters = _providers()
    before = [(owner, name, owner.__dict__[name]) for owner, name in _WRAPPED]
    instrumentor = SQLAlchemyInstrumentor()
    instrumentor._is_instrumented_by_opentelemetry = False  # it would refuse a second engine
    instrumentor.instrument(engine=engine.sync_engine, tracer_provider=tracers, meter_provider=meters)
    sync_engine: Any = engine.sync_engine
    sync_engine.connect = sync_engine.connect  # bound while it is wrapped
    for owner, name, plain in before:
        setattr(owner, name, plain)


def exporting() -> dict[str, Any]:
    """Give the options of a GuardedPool whose telemetry has an SDK, while the others in this process have none."""
    if MISSING is not None:
        return {}
    tracers, meters = _providers()
    return {"guard": {"tracer_provider": tracers, "meter_provider": meters}}
