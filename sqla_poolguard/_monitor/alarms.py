"""Decides what of a pool is to be warned of, once for as long as it lasts. It reads no clock, asks nobody and writes no log."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from sqla_poolguard._budget import Bound
from sqla_poolguard._monitor.facts import Alarm, AlarmKind, lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqla_poolguard._facts import PoolSnapshot
    from sqla_poolguard._monitor.facts import MonitorRow
    from sqla_poolguard._monitor.settings import Settings

__all__ = ["Alarms", "Slots"]

_CALM: Final = 0.9
"""A level is well again below so much of what is warned of, so that one that goes up and down is told once."""

_OF = {Bound.SERVER: "", Bound.ROLE: " of the role's limit", Bound.DATABASE: " of the database's limit"}


class Slots(NamedTuple):
    """The room that a server has for us."""

    free: int
    of: int | None
    """None if it has refused us because it is full."""
    bound: Bound = Bound.SERVER
    """Which limit that is."""


class _Look(NamedTuple):
    """What is judged."""

    seen: PoolSnapshot
    rows: tuple[MonitorRow, ...]
    slots: Slots | None
    longest: float
    """Seconds that somebody has waited, without those in which nobody could have been served."""
    now: float


class _Spell:
    """For how long something has been so at every look."""

    def __init__(self) -> None:
        self._since: float | None = None

    def look(self, now: float, *, so: bool) -> float:
        """Give the seconds since the first look of those at which it was so; below 0 if it is not so now."""
        if not so:
            self._since = None
            return -1.0
        if self._since is None:
            self._since = now
        return now - self._since


class Alarms:
    """The alarms of one pool that last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lasting: set[tuple[AlarmKind, object]] = set()
        self._full = _Spell()
        self._well = {AlarmKind.NEAR_CAPACITY: _Spell(), AlarmKind.STARVATION: _Spell()}

    def judge(
        self,
        seen: PoolSnapshot,
        rows: tuple[MonitorRow, ...],
        slots: Slots | None,
        *,
        now: float,
        stood_still: Callable[[float], float],
    ) -> tuple[list[Alarm], list[tuple[AlarmKind, str]]]:
        """
        Look at a pool.

        Args:
            seen: the pool.
            rows: its holders.
            slots: the room on the server; None if it is not known.
            now: seconds on a clock that only goes forward.
            stood_still: tells for how many of the last seconds the event loop stood still: who waited meanwhile waited for that.

        Returns:
            What is to be warned of, and what is over (kind, pool).
        """
        longest = max((waiter.waited - stood_still(waiter.waited) for waiter in seen.waiters), default=0.0)
        look = _Look(seen, rows, slots, longest, now)
        found = {(alarm.kind, key): alarm for key, alarm in self._found(look)}
        lasts = {key for key in self._lasting if self._lasts(key[0], look, found=key in found)}
        news = [alarm for key, alarm in found.items() if key not in self._lasting]
        for kind in {alarm.kind for alarm in news} & self._well.keys():
            self._well[kind].look(now, so=False)  # what was well before it began does not count
        over = [(kind, seen.pool) for kind, key in self._lasting - lasts if key is None]
        self._lasting = found.keys() | lasts
        return news, over

    def _found(self, look: _Look) -> Iterator[tuple[object, Alarm]]:
        wanted, (seen, rows, slots, longest, now) = self._settings, look
        pool, busy = seen.pool, seen.used + seen.connecting
        full = wanted.near_capacity is not None and seen.limit is not None and busy >= wanted.near_capacity * seen.limit
        spell = self._full.look(now, so=full)
        if spell >= wanted.sustained:
            text = f"{busy} of {seen.limit} connections are in use, and {wanted.near_capacity:.0%} or more have been for {spell:.0f} s"
            yield None, Alarm(AlarmKind.NEAR_CAPACITY, pool, text + _held(rows), rows)
        if wanted.starvation is not None and seen.waiters and longest >= wanted.starvation and not seen.idle:
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

    def _lasts(self, kind: AlarmKind, look: _Look, *, found: bool) -> bool:
        """Tell whether an alarm is not over: what is seen again, or not well yet, or well only since a moment."""
        wanted, seen = self._settings, look.seen
        if kind is AlarmKind.SLOTS_LOW and wanted.slots_low is not None:
            return found or look.slots is None or look.slots.free <= wanted.slots_low + 1
        if kind not in self._well:
            return found
        if kind is AlarmKind.NEAR_CAPACITY:
            level = math.inf if wanted.near_capacity is None or seen.limit is None else wanted.near_capacity * seen.limit
            well = seen.used + seen.connecting < level * _CALM
        else:
            well = not seen.waiters or look.longest < (wanted.starvation or 0.0) * _CALM
        spell = self._well[kind].look(look.now, so=well and not found)
        return spell < wanted.sustained


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
