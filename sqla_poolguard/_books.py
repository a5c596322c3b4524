"""Opens the books of one engine's pool: what it is called, what is counted, who is told, and who draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqla_poolguard._ledger import Ledger
from sqla_poolguard._logs import LogObserver
from sqla_poolguard._naming import address_of, claim
from sqla_poolguard._observers import Observers
from sqla_poolguard._otel import observe
from sqla_poolguard._reporter import Reporter
from sqla_poolguard._tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._guard import Guard

__all__ = ["open_books"]


def open_books(guard: Guard, creator: Callable[..., Any], dialect: Any) -> Reporter:
    """
    Open the books that all generations of a pool share.

    Args:
        guard: `name`, `telemetry` with its providers, and `observers`.
        creator: makes a DBAPI connection.
        dialect: SQLAlchemy's; with the creator it tells what the pool is called where the guard does not.
    """
    ledger = Ledger()
    taken = claim(guard.name or address_of(creator, dialect), ledger)
    if not guard.telemetry:
        return Reporter(taken, ledger, Observers((LogObserver(), *guard.observers)), Tracing())
    telemetry = observe(ledger, taken.name, guard.meter_provider, guard.tracer_provider)
    return Reporter(taken, ledger, Observers((telemetry, LogObserver(), *guard.observers)), telemetry.tracing)
