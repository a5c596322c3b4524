"""
What OpenTelemetry is told about a pool. The only room that imports it, and only its API.

Without an SDK nothing is measured and nothing is drawn.
One that is configured later, by `set_meter_provider()` or `set_tracer_provider()`, is used from then on.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import get_meter
from opentelemetry.trace import get_tracer

from sqla_poolguard._facts import Reason
from sqla_poolguard._observer import Observer
from sqla_poolguard._otel._metrics import Metrics
from sqla_poolguard._otel._names import SCHEMA_URL, SCOPE
from sqla_poolguard._otel._spans import Spans, trace_id_in
from sqla_poolguard._version import own_version

if TYPE_CHECKING:
    from sqla_poolguard._facts import Opened, Rejection, Wait
    from sqla_poolguard._ledger import Ledger
    from sqla_poolguard._otel._metrics import PoolMetrics

__all__ = ["Telemetry", "observe", "trace_id_in"]

_once: Final = threading.Lock()


class Telemetry(Observer):
    """
    Tells OpenTelemetry what happens in one engine's pool.

    It does not hear of an ordinary checkout: that leaves a sample in the ledger, and no more.
    """

    __slots__ = ("_metrics", "_spans", "waited_from")

    def __init__(self, metrics: PoolMetrics, spans: Spans) -> None:
        self._metrics = metrics
        self._spans = spans
        self.waited_from = spans.worth_seeing

    def opened(self, opened: Opened) -> None:
        """Record how long it took to connect."""
        self._metrics.created(opened.create_time)

    def waited(self, wait: Wait) -> None:
        """Draw a long wait."""
        self._spans.waited(wait)

    def rejected(self, rejection: Rejection) -> None:
        """Count a timeout, and draw the wait."""
        if rejection.reason is Reason.TIMEOUT:
            self._metrics.timed_out()
        self._spans.rejected(rejection)


def observe(ledger: Ledger, name: str, *, metrics: Metrics | None = None, spans: Spans | None = None) -> Telemetry:
    """
    Tell OpenTelemetry about an engine's pool as long as its ledger lives; to be called once per ledger.

    Args:
        ledger: the books to read at each export; held weakly.
        name: what the pool is called, unique in the process.
        metrics: measures it; default: the instruments of the application's meter provider.
        spans: draws its waits; default: with the application's tracer provider.
    """
    if metrics is None or spans is None:
        with _once:
            metrics, spans = metrics or _global_metrics(), spans or _global_spans()
    return Telemetry(metrics.measure(ledger, name), spans)


@functools.cache
def _global_metrics() -> Metrics:
    return Metrics(get_meter(SCOPE, own_version(), schema_url=SCHEMA_URL))


@functools.cache
def _global_spans() -> Spans:
    return Spans(get_tracer(SCOPE, own_version(), schema_url=SCHEMA_URL))
