"""What the monitor tells: a holder and what the server says of its connection, and what is wrong. Frozen values."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqla_poolguard._facts import Holder

__all__ = ["Alarm", "AlarmKind", "Blocker", "MonitorRow", "Session", "Told", "lines"]

_LINES_SHOWN = 3


class AlarmKind(enum.StrEnum):
    """What the monitor warns of."""

    NEAR_CAPACITY = "pool_near_capacity"
    """Nearly all connections of a pool are out."""
    STARVATION = "pool_starvation_detected"
    """Somebody waits for long, and no connection is idle."""
    STALE_IDLE_IN_TRANSACTION = "stale_idle_in_transaction"
    """A connection that is out has been idle in its transaction for long."""
    SLOTS_LOW = "server_slots_low"
    """The server has room for few more connections."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session of the server, as `pg_stat_activity` shows it. What the role may not see is None."""

    pid: int
    """Its process on the server."""
    state: str | None
    """`active`, `idle`, `idle in transaction` …"""
    state_age: float | None
    """Seconds since that began."""
    transaction_age: float | None
    """Seconds since its transaction began; None outside of one."""
    waits_for: str | None
    """What it waits for: the kind of the event and its name, separated by a colon."""
    locks: int
    """Locks that it holds, beside that on its own transaction's virtual number."""
    blocked_by: tuple[int, ...]
    """The processes that hold the lock it waits for, or wait for it before it."""
    application: str | None
    """Its `application_name`."""
    ours: bool
    """Whether it has the monitor's role and database."""

    @property
    def is_idle_in_transaction(self) -> bool:
        """Whether it has a transaction, and is asked nothing."""
        return (self.state or "").startswith("idle in transaction")


@dataclass(frozen=True, slots=True)
class Blocker:
    """Who holds a lock that somebody else waits for."""

    pid: int
    """Its process on the server."""
    holder: Holder | None
    """The holder, if it is a connection of this process."""
    application: str | None
    """Its `application_name`, if the server shows it."""

    def __str__(self) -> str:
        if self.holder is not None:
            return f"{_site(self.holder)} (pid {self.pid})"
        return f"pid {self.pid}" + (f" of {self.application!r}" if self.application else "")


@dataclass(frozen=True, slots=True)
class MonitorRow:
    """A holder, and what the server says of its connection."""

    holder: Holder
    """Who holds it, at which line, and what that awaits."""
    session: Session | None
    """None if the server cannot be asked, if its processes cannot be told (a pooler), or if the holder has changed meanwhile."""
    blocked_by: tuple[Blocker, ...] = ()
    """Who holds the lock it waits for."""
    blocks: int = 0
    """Sessions that wait for a lock of this one, on the whole server."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a monitor knew of a pool at its last look."""

    ago: float
    """Seconds since then."""
    trouble: str | None
    """Why nothing is known of the sessions, if it is not."""
    rows: tuple[MonitorRow, ...]
    """Who held a connection then, the longest first."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that is wrong, told once while it lasts."""

    kind: AlarmKind
    """What it is."""
    pool: str
    """Name of the pool."""
    text: str
    """In words, with the lines concerned."""
    rows: tuple[MonitorRow, ...] = ()
    """The holders concerned."""


def lines(rows: Iterable[MonitorRow]) -> str:
    """Count holders by line and by what the server says of them, the most frequent first."""
    counted = Counter((_site(row.holder), row.session.state if row.session is not None else None) for row in rows)
    shown = [f"{site} ({count} x{f', {state}' if state else ''})" for (site, state), count in counted.most_common(_LINES_SHOWN)]
    more = len(counted) - len(shown)
    return "; ".join(shown) + (f"; and {more} other lines" if more > 1 else "; and another line" if more else "")


def _site(holder: Holder) -> str:
    return str(holder.site) if holder.site is not None else "an unknown line"
