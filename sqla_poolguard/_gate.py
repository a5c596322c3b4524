"""The gate of the queue: how urgent is who asks, may it wait, and who is turned away for it. What to decide is in the rules."""

from __future__ import annotations

import logging
import math
import weakref
from typing import TYPE_CHECKING, Final

from sqla_poolguard._admission import Admission
from sqla_poolguard._facts import Reason
from sqla_poolguard._overload import Overload, Priority
from sqla_poolguard._urgency import importance

if TYPE_CHECKING:
    from asyncio import Task

    from sqla_poolguard._guard import Guard
    from sqla_poolguard._handover import Handover
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._reporter import Reporter
    from sqla_poolguard._slots import Slots

__all__ = ["Gate"]

_USUAL_WAIT: Final = 1.0
_TELL_EVERY: Final = 60.0
"""Seconds between two reports that requests are, or would be, turned away."""

_log: Final = logging.getLogger("sqla_poolguard")


class Gate:
    """The gate of one pool's queue."""

    __slots__ = (
        "_acts",
        "_admission",
        "_gap",
        "_handover",
        "_most",
        "_reporter",
        "_slots",
        "_told",
        "_told_at",
        "_virtual",
        "_warned",
        "patience",
    )

    def __init__(
        self, guard: Guard, slots: Slots[GuardedRecord], handover: Handover, reporter: Reporter, patience: float
    ) -> None:
        """
        Open the gate.

        Args:
            guard: `fail_fast`, `max_wait` and `max_waiting`.
            slots: what is waited for.
            handover: turns waiters away.
            reporter: tells of it, and keeps the books.
            patience: seconds of `pool_timeout`; infinity for ever, 0 or less for not at all.
        """
        self._slots, self._handover, self._reporter = slots, handover, reporter
        self._most = math.inf if guard.max_waiting is None else guard.max_waiting
        self._acts: bool | None = None if guard.fail_fast == "observe" else bool(guard.fail_fast)
        wait = min(patience if patience > 0 else math.inf, guard.max_wait or _USUAL_WAIT)
        self.patience = float(min(patience, wait) if self._acts else patience)
        """Seconds for which anybody may wait."""
        self._admission = Admission(wait, slots.limit)
        self._virtual: tuple[int, int] | None = None
        """
        (how many would wait if others had been turned away, checkouts granted when that was counted), while it only observes.

        None: as many as do wait.
        """
        self._gap: float | None = None
        """What `gap` told last, as long as the last look is good enough."""
        self._told, self._told_at = 0, -math.inf
        self._warned = False

    def level(self, task: Task[object] | None) -> tuple[Priority, weakref.ref[Task[object]] | None]:
        """
        Tell how important a request is. Who holds a connection already is to finish what it began.

        Returns:
            That, and a reference to the task.
        """
        level = importance()
        if task is None:
            return level, None
        known = weakref.getweakrefcount(task)
        own = weakref.ref(task)
        if (
            level is not Priority.CRITICAL
            and weakref.getweakrefcount(task) == known  # somebody had one of this kind: perhaps a lease
            and any(lease.task is own for lease in self._slots.leases())
        ):
            level = Priority.CRITICAL
        return level, own

    def enter(self, now: float, level: Priority) -> Reason | None:
        """
        Ask whether one more may wait; it may be let in at the expense of another, who is turned away.

        Returns:
            Why not; None if it may.
        """
        waiters, admission = self._slots.waiters, self._admission
        waiting = len(waiters.queued) if not waiters.gone else waiters.about
        if waiting >= self._most and len(waiters) >= self._most:
            return Reason.QUEUE_FULL
        if admission.is_calm(now, waiting) and level is not Priority.SHEDDABLE:
            self._virtual = None  # nobody would have been turned away lately
            return None
        if not admission.is_fresh(now, waiting):
            self._look(now, waiting)
        if self._acts:
            if admission.fits(now, waiters.ahead_of(level), level):
                return None
            if not (admission.budget(now, level) and self._evict(now, level)):
                self._tell(now)
                return Reason.REJECTED
            # connections come back more slowly than they did; whom a critical one turns away was not ahead of it
            if level is not Priority.CRITICAL and not admission.fits(now, waiters.ahead_of(level), level):
                self._evict(now, level)
        elif self._acts is None:
            if level is not Priority.SHEDDABLE and admission.is_short(waiting):
                self._virtual = None
            else:
                self._observe(now, level, waiting)
        return None

    def _evict(self, now: float, level: Priority) -> bool:
        """Turn away the waiter that is to go first, at most as important as `level`; False if there is none."""
        victim = self._slots.evict(level)
        if victim is None:
            return False
        self._tell(now)
        self._handover.evict(victim)
        return True

    def gap(self, now: float) -> float:
        """
        Estimate, for who is turned away, the seconds between two connections coming back.

        Where the current holds are longer already than those that ended, they count.
        """
        slots, admission = self._slots, self._admission
        waiting = slots.waiters.about
        if not admission.is_fresh(now, waiting):
            self._look(now, waiting)
        elif self._gap is not None:
            return self._gap
        current = [now - lease.granted_at for lease in slots.leases() if lease.granted_at is not None]
        longest = sum(current) / len(current) if current else 0.0
        servers = _servers(slots)
        self._gap = gap = max(admission.pace.gap(now, _busy(slots), servers), longest / servers)
        return gap

    def pace(self, now: float) -> float:
        """Estimate the seconds between two connections coming back, once all are there again."""
        slots = self._slots
        return self._admission.pace.gap(now, _busy(slots), int(min(slots.limit, slots.size + max(slots.max_overflow, 0))) or 1)

    def resized(self) -> None:
        """Remember as many holds as fit the pool's new size."""
        self._admission.pace.remember(self._slots.limit)

    def forget(self) -> None:
        """Begin anew, in a forked child: who waited, and how fast connections came back, was the parent's."""
        self._admission = Admission(self._admission.max_wait, self._slots.limit)
        self._virtual = self._gap = None
        self._told, self._told_at = 0, -math.inf

    def _look(self, now: float, waiting: int) -> None:
        ledger, admission = self._reporter.ledger, self._admission
        self._gap = None
        slots = self._slots
        admission.look(now, _busy(slots), _servers(slots), ledger.granted, waiting, ledger.samples)
        if self._acts and not self._warned and admission.is_poor:
            self._warned = True
            _log.warning(
                "pool %r: connections are held for %.2f s on average, which is much against max_wait=%.2f: "
                "fail_fast turns away some that could be served; raise max_wait, or hold connections more briefly",
                self._reporter.name,
                admission.pace.mean,
                admission.max_wait,
            )

    def _observe(self, now: float, level: Priority, waiting: int) -> None:
        """Count whom `fail_fast=True` would have turned away, with the queue as it would be then."""
        granted = self._reporter.ledger.granted
        queue = waiting
        if self._virtual is not None:
            queued, counted_at = self._virtual
            queue = min(max(queued + counted_at - granted, 0), waiting)
        ahead = min(queue, self._slots.waiters.ahead_of(level)) if level is Priority.CRITICAL else queue
        if self._admission.fits(now, ahead, level):
            queue += 1
        else:
            self._would_reject(now)
            if level is not Priority.CRITICAL and queue and not self._admission.fits(now, queue - 1, level):  # as `enter` does
                self._would_reject(now)
                queue -= 1
        self._virtual = queue, granted

    def _would_reject(self, now: float) -> None:
        self._reporter.ledger.totals.would_reject += 1
        self._tell(now)

    def _tell(self, now: float) -> None:
        """Tell, once a minute, that requests are turned away, or would be."""
        self._told += 1
        if now - self._told_at >= _TELL_EVERY:
            since = now - self._told_at if self._told_at > -math.inf else 0.0
            fact = Overload(
                self._reporter.name,
                self._told,
                since,
                self._admission.predicted,
                self._admission.max_wait,
                acted=bool(self._acts),
            )
            self._told, self._told_at = 0, now
            self._reporter.tell(self._reporter.observers.overloaded, fact)


def _busy(slots: Slots[GuardedRecord]) -> int:
    """Count the connections that are out, or on their way; not those that are being opened, which nobody holds."""
    return max(slots.taken - len(slots.idle) - slots.breaker.under_way, 0)


def _servers(slots: Slots[GuardedRecord]) -> int:
    """Count the connections that serve those who wait: as many as there may be; if no more can be opened, those that are out."""
    busy = _busy(slots)
    if slots.breaker.down_since is not None and busy:
        return busy
    return int(slots.limit) if slots.limit < math.inf else max(slots.taken, 1)
