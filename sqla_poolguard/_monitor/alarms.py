"""Decides what of a pool is to be warned of, once for as long as it lasts. It reads no clock, asks nobody and writes no log."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqla_poolguard._budget import Bound
from sqla_poolguard._monitor.facts import Alarm, AlarmKind, lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._facts import PoolSnapshot
    from sqla_poolguard._monitor.facts import MonitorRow
    from sqla_poolguard._monitor.settings import Settings

__all__ = ["Alarms", "Slots"]

_CALM = 0.9
"""An alarm about a level is over below so much of it, so that one that goes up and down is told once."""

_OF = {Bound.SERVER: "", Bound.ROLE: " of the role's limit", Bound.DATABASE: " of the database's limit"}


class Slots(NamedTuple):
    """The room that a server has for us."""

    free: int
    of: int | None
    """None if it has refused us because it is full."""
    bound: Bound = Bound.SERVER
    """Which limit that is."""


class Alarms:
    """The alarms of one pool that last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lasting: set[tuple[AlarmKind, object]] = set()

    def judge(
        self, seen: PoolSnapshot, rows: tuple[MonitorRow, ...], slots: Slots | None
    ) -> tuple[list[Alarm], list[tuple[AlarmKind, str]]]:
        """
        Look at a pool.

        Args:
            seen: the pool.
            rows: its holders.
            slots: the room on the server; None if it is not known.

        Returns:
            What is to be warned of, and what is over (kind, pool).
        """
        found = {(alarm.kind, key): alarm for key, alarm in self._found(seen, rows, slots)}
        still = {key for key in self._lasting - found.keys() if self._is_still(key[0], seen, slots)}
        news = [alarm for key, alarm in found.items() if key not in self._lasting]
        over = [(kind, seen.pool) for kind, key in self._lasting - found.keys() - still if key is None]
        self._lasting = found.keys() | still
        return news, over

    def _found(self, seen: PoolSnapshot, rows: tuple[MonitorRow, ...], slots: Slots | None) -> Iterator[tuple[object, Alarm]]:
        wanted, pool = self._settings, seen.pool
        busy = seen.used + seen.connecting
        if wanted.near_capacity is not None and seen.limit is not None and busy >= wanted.near_capacity * seen.limit:
            text = f"{busy} of {seen.limit} connections are in use{_held(rows)}"
            yield None, Alarm(AlarmKind.NEAR_CAPACITY, pool, text, rows)
        longest = max((waiter.waited for waiter in seen.waiters), default=0.0)
        if wanted.starvation is not None and longest >= wanted.starvation and not seen.idle:
            text = f"{seen.waiting} wait, the oldest for {longest:.1f} s, and no connection is idle{_held(rows)}{_locks(rows)}"
            yield None, Alarm(AlarmKind.STARVATION, pool, text, rows)
        if wanted.idle_in_transaction is not None:
            for row in rows:
                if _idles(row, wanted.idle_in_transaction):
                    yield _key(row), Alarm(AlarmKind.STALE_IDLE_IN_TRANSACTION, pool, _stale(row), (row,))
        if wanted.slots_low is not None and slots is not None and slots.free <= wanted.slots_low:
            text = (
                "the server has no room for another connection"
                if slots.of is None
                else f"{slots.free} of {slots.of} slots{_OF[slots.bound]} are free"
            )
            yield None, Alarm(AlarmKind.SLOTS_LOW, pool, f"{text}; this pool has {busy + seen.idle}", rows)

    def _is_still(self, kind: AlarmKind, seen: PoolSnapshot, slots: Slots | None) -> bool:
        """Tell whether an alarm that would not be given now is not over either."""
        if kind is AlarmKind.NEAR_CAPACITY and self._settings.near_capacity is not None and seen.limit is not None:
            return seen.used + seen.connecting >= self._settings.near_capacity * seen.limit * _CALM
        if kind is AlarmKind.SLOTS_LOW and self._settings.slots_low is not None:
            return slots is None or slots.free <= self._settings.slots_low + 1
        return False


def _idles(row: MonitorRow, seconds: float) -> bool:
    """Tell whether a connection is idle in its transaction for too long; one whose hold was declared, only if others wait for it."""
    session = row.session
    if session is None or not session.is_idle_in_transaction or (session.state_age or 0.0) < seconds:
        return False
    return row.holder.declared is None or row.blocks > 0


def _key(row: MonitorRow) -> object:
    """Tell one holder from the next, of the same connection."""
    session = row.session
    return (session.pid, row.holder.site, row.holder.task) if session is not None else None


def _held(rows: tuple[MonitorRow, ...]) -> str:
    return f"; held at {lines(rows)}" if rows else ""


def _locks(rows: tuple[MonitorRow, ...]) -> str:
    """Name the line that holds the locks most others wait for."""
    worst = max(rows, key=lambda row: row.blocks, default=None)
    if worst is not None and worst.blocks:
        return f"; {_sessions(worst.blocks)} for a lock held at {lines([worst])}"
    foreign = next((blocker for row in rows for blocker in row.blocked_by if blocker.holder is None), None)
    return f"; they wait for a lock of {foreign}, which is not of this process" if foreign is not None else ""


def _stale(row: MonitorRow) -> str:
    session, holder = row.session, row.holder
    age, locks = (session.state_age or 0.0, session.locks) if session is not None else (0.0, 0)
    doing = f", awaiting {holder.awaiting}" if holder.awaiting else ""
    doing += f" at {holder.current}" if holder.current is not None else ""
    blocked = f", {_sessions(row.blocks)} for it" if row.blocks else ""
    return f"idle in transaction for {age:.1f} s with {locks} locks{blocked}: checked out at {holder.site or 'an unknown line'}{doing}"


def _sessions(count: int) -> str:
    return "1 session waits" if count == 1 else f"{count} sessions wait"
