"""
What OpenTelemetry is told about a pool. The only room that imports it, and only its API.

Without an SDK nothing is measured and nothing is drawn.
One that is configured later, by `set_meter_provider()` or `set_tracer_provider()`, is used from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqla_poolguard._observer import Observer
from sqla_poolguard._otel._providers import metrics_of, spans_of
from sqla_poolguard._otel._spot import trace_id_in

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from sqla_poolguard._facts import Opened, Rejection, Wait
    from sqla_poolguard._ledger import Ledger
    from sqla_poolguard._otel._measured import Measured
    from sqla_poolguard._otel._spans import PoolSpans

__all__ = ["Telemetry", "observe", "trace_id_in"]


class Telemetry(Observer):
    """
    Tells OpenTelemetry what happens in one engine's pool.

    It does not hear of an ordinary checkout: that leaves a sample in the ledger, and no more.
    """

    __slots__ = ("_measured", "tracing", "waited_from")

    def __init__(self, measured: Measured, tracing: PoolSpans) -> None:
        self._measured = measured
        self.tracing = tracing
        """Draws the pool's spans; told by the pool itself, since a place in a trace is no fact."""
        self.waited_from = tracing.worth_seeing

    def _is_awake(self) -> bool:
        """Tell whether anybody measures waits: without an SDK they are not even described."""
        return self._measured.is_awake

    def opened(self, opened: Opened) -> None:
        """Record how long it took to connect."""
        self._measured.created(opened.create_time)

    def waited(self, wait: Wait) -> None:
        """Record a long wait."""
        self._measured.waited(wait.waited)

    def rejected(self, rejection: Rejection) -> None:
        """Count a wait in vain."""
        self._measured.rejected(rejection.reason)


def observe(
    ledger: Ledger, name: str, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> Telemetry:
    """
    Tell OpenTelemetry about an engine's pool as long as its ledger lives; to be called once per ledger.

    Args:
        ledger: the books to read at each export; held weakly.
        name: what the pool is called, unique in the process.
        meter_provider: measures it; default: the application's global one.
        tracer_provider: draws its waits; default: the application's global one.
    """
    return Telemetry(metrics_of(meter_provider).measure(ledger, name), spans_of(tracer_provider).of_pool(ledger.totals))
