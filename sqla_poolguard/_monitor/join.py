"""Brings together who holds a pool's connections, and what the server says of them. What does not fit is not brought together."""

from __future__ import annotations

from asyncio.events import _get_running_loop
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from sqla_poolguard._monitor.facts import Blocker, MonitorRow
from sqla_poolguard._probe import driver_of, server_pid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqla_poolguard._facts import Holder
    from sqla_poolguard._ledger import Lease
    from sqla_poolguard._monitor.facts import Session
    from sqla_poolguard._monitor.server import Activity
    from sqla_poolguard._pool import GuardedPool

__all__ = ["Held", "join", "look"]


class Held(NamedTuple):
    """A lease that is out at one moment."""

    holder: Holder
    pid: int | None
    """The server's process, as the driver knows it."""
    lease: Lease
    granted_at: float

    @property
    def lasts(self) -> bool:
        """Whether the same holder still has it."""
        return self.lease.granted_at == self.granted_at


def look(pool: GuardedPool) -> list[Held]:
    """Look at what is out of a pool, and of those that it took the place of, the longest first."""
    watch = pool._watch
    watch.sampler.look_now(_get_running_loop())
    now, found = pool._clock(), []
    for slots in watch.ledger.pools():
        for record in slots.out():
            granted_at = record.lease.granted_at
            if granted_at is not None:
                pid = server_pid(driver_of(record.dbapi_connection))
                found.append(Held(watch.reporter.holder(record.lease, now), pid, record.lease, granted_at))
    return sorted(found, key=lambda held: held.granted_at)


def join(held: Iterable[Held], activity: Activity | None, everybody: Iterable[Held]) -> tuple[MonitorRow, ...]:
    """
    Join holders and sessions by the server's process.

    Args:
        held: as they were before the server was asked.
        activity: what it told; None if it could not be asked.
        everybody: the holders of all pools of the monitor: whoever blocks may be among them.
    """
    if activity is None or activity.pooled:
        return tuple(MonitorRow(each.holder, None) for each in held if each.lasts)
    sessions = activity.sessions
    holders = {each.pid: each.holder for each in everybody if each.lasts and _session_of(each, activity) is not None}
    waiting = Counter(pid for session in sessions.values() for pid in session.blocked_by)
    rows = []
    for each in held:
        if not each.lasts:
            continue
        session = _session_of(each, activity)
        blockers: tuple[Blocker, ...] = ()
        if session is not None:
            blockers = tuple(
                Blocker(pid, holders.get(pid), sessions[pid].application if pid in sessions else None)
                for pid in session.blocked_by
            )
        rows.append(MonitorRow(each.holder, session, blockers, waiting[session.pid] if session is not None else 0))
    return tuple(rows)


def _session_of(held: Held, activity: Activity) -> Session | None:
    """Find the session of a connection; a process that merely has the same number does not have our role and database."""
    session = activity.sessions.get(held.pid) if held.pid is not None else None
    return session if session is not None and session.ours else None
