"""How full a pool is at this moment: what gauges show. It is read from the slots, and summed up from nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from sqla_poolguard._connects import BreakerState

if TYPE_CHECKING:
    from sqla_poolguard._ledger import Ledger
    from sqla_poolguard._slots import Slots

__all__ = ["Connections", "breakers", "connections", "most_idle", "most_open"]


class Connections(NamedTuple):
    """Open connections, those of retired generations included."""

    idle: int
    used: int


def connections(ledger: Ledger) -> Connections:
    """Count open connections."""
    idle = used = 0
    for slots in ledger.pools():
        idle += sum(record.dbapi_connection is not None for record in slots.idle.copy())
        used += len(slots.leases())
    return Connections(idle, used)


def most_open(ledger: Ledger) -> int | None:
    """Tell how many connections may be open; None for any number."""
    limit = max((slots.limit for slots in _current(ledger)), default=0)
    return int(limit) if 0 < limit < math.inf else None


def most_idle(ledger: Ledger) -> int | None:
    """Tell how many connections are kept; None for any number."""
    return max((slots.size for slots in _current(ledger)), default=0) or None


def breakers(ledger: Ledger) -> dict[BreakerState, int]:
    """Count the breakers in each state: one, but for `dispose(close=False)`; none for `Guard(breaker=False)`, and then no state."""
    states = [slots.breaker.state for slots in _current(ledger) if slots.breaker.opens]
    return {state: states.count(state) for state in BreakerState} if states else {}


def _current(ledger: Ledger) -> list[Slots[Any]]:
    """
    Give the slots that are in use.

    There are several only after `dispose(close=False)`, each of the same size.
    """
    return [slots for slots in ledger.pools() if not slots.retired]
