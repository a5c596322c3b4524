"""Decides, from what samples have shown of a lease, whether something is wrong with it; and what is done about it."""

from __future__ import annotations

import math
from asyncio import all_tasks
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard import _holds, _sight
from sqla_poolguard._callsite import site_of
from sqla_poolguard._facts import HolderState
from sqla_poolguard._finding import FindingKind, LeakKind
from sqla_poolguard._keepers import know_keepers
from sqla_poolguard._reach import is_within_reach
from sqla_poolguard._reclaim import reclaim
from sqla_poolguard._sight import Sight
from sqla_poolguard._streak import streak_of

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Sequence

    from sqla_poolguard._facts import Site
    from sqla_poolguard._guard import Guard
    from sqla_poolguard._handover import Handover
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._reporter import Reporter
    from sqla_poolguard._slots import Slots
    from sqla_poolguard._streak import Streak
    from sqla_poolguard._ticker import Blocked
    from sqla_poolguard._waiters import Waiter

__all__ = ["Judge"]

_LATENT: Final = 1.5
"""Times `await_warning` that many short awaits together may take."""
_ENOUGH: Final = 3
"""Samples of a gap that must see its holder await something else: one may have fallen between two steps of a slow machine."""
_TWICE: Final = 2
"""Samples one after the other that must see a lease nested: one that is just being closed is not."""


class Judge:
    """Says what is wrong, once for each gap in which a connection is idle, unless the hold is declared to be right."""

    def __init__(
        self, guard: Guard, slots: Slots[GuardedRecord], handover: Handover, reporter: Reporter, clock: Callable[[], float]
    ) -> None:
        self._slots = slots
        self._guard, self._handover, self._reporter, self._clock = guard, handover, reporter, clock
        self.patience = math.inf if guard.await_warning is None else guard.await_warning
        """Seconds for which a connection may be idle in a holder's hands."""

    def count(self, record: GuardedRecord, streak: Streak, sight: Sight, passed: float, stands_for: float) -> None:
        """
        Count time for which a connection was idle in somebody's hands.

        Args:
            record: the connection.
            streak: of its lease.
            sight: what its holder does.
            passed: seconds since this lease was looked at before; 0 the first time.
            stands_for: seconds since anything was looked at: so that the total is right, on average, for short leases too.
        """
        foreign = 0.0
        if sight.state in {HolderState.AWAITING, HolderState.NESTED}:
            streak.add_elsewhere(sight.current, sight.awaiting, passed, yields=sight.yields)
            if sight.declared is None and streak.declared is None:
                self._reporter.findings.add_waste(sight.current, sight.awaiting, passed)
                foreign = stands_for
        elif sight.state is HolderState.ORPHANED:
            self._reporter.findings.add_waste(site_of(record.lease.place), None, passed)
        totals = self._reporter.ledger.totals
        totals.foreign_await = (totals.foreign_await or 0.0) + foreign

    def idle(self, record: GuardedRecord, streak: Streak, sight: Sight) -> None:
        """Judge a connection that is idle."""
        if sight.state is HolderState.NESTED:
            streak.nested += 1
            if streak.nested >= _TWICE:
                self._find(record, streak, FindingKind.NESTED, sight)
            return
        streak.nested = 0
        if sight.state is HolderState.ORPHANED and streak.idle >= self.patience:
            known = FindingKind.ORPHANED in streak.told
            if self._find(record, streak, FindingKind.ORPHANED, sight):
                kind = LeakKind.ORPHANED
                try:
                    if self._guard.reclaim == "orphaned" and self._reclaim(record, streak):
                        kind = LeakKind.RECLAIMED
                finally:
                    if not known:
                        self._reporter.ledger.totals.leaks[kind] += 1
        elif sight.state is HolderState.AWAITING:
            seen = streak.gap_samples >= _ENOUGH and streak.gap_elsewhere * 2 >= streak.idle
            if streak.idle >= self.patience and seen:
                self._find(record, streak, FindingKind.HELD_ACROSS_AWAIT, sight)
            elif not streak.told and _many_short(streak, self.patience):
                worst = streak.worst()
                self._find(record, streak, FindingKind.HELD_ACROSS_AWAIT, sight._replace(current=worst[0], awaiting=worst[1]))

    def _reclaim(self, record: GuardedRecord, streak: Streak) -> bool:
        """
        Take a connection back, unless it was used since, or anything that the loop still has to run can reach it.

        Returns:
            Whether it was taken back.
        """
        if streak.used_late or record.loop is None or streak.lived < streak.reclaim_at:
            return False
        streak.reclaim_at = streak.lived + max(streak.idle, self.patience)  # twice as long again: it takes a moment
        fairy = record.fairy_ref() if record.fairy_ref is not None else None
        if is_within_reach(record.loop, all_tasks(record.loop), fairy):
            return False
        reclaim(record, self._reporter)
        return True

    def blocked(self, record: GuardedRecord, streak: Streak, blocked: Blocked, user: Task[Any] | None) -> None:
        """Judge a holder during whose lease the event loop stood still; `user` is the task for which the database works now."""
        site = _culprit(blocked, streak, user) if blocked.seconds >= self.patience else None
        if site is not None:
            self._reporter.findings.add_waste(site, None, blocked.seconds)
            self._find(record, streak, FindingKind.LOOP_BLOCKED, Sight(HolderState.RUNNING, site), blocked.seconds)

    def deadlock(self, out: Sequence[GuardedRecord], waiter: Waiter, proof: tuple[str, ...]) -> None:
        """Tell of a deadlock, and turn one waiter away, if that was asked for."""
        record = min(out, key=lambda record: record.lease.granted_at or 0.0)
        streak = streak_of(record)
        if self._guard.deadlock == "warn" and FindingKind.DEADLOCK in streak.told_in_gap:
            return
        streak.told_in_gap.add(FindingKind.DEADLOCK)
        sight = Sight(HolderState.NESTED, site_of(waiter.place), "a connection of this pool", None, proof)
        self._reporter.found(record.lease, streak, FindingKind.DEADLOCK, sight, self._clock(), idle=streak.idle)
        if self._guard.deadlock == "fail":
            self._handover.refuse(waiter, proof)

    def excused(self, record: GuardedRecord, streak: Streak) -> bool | None:
        """Tell whether a hold is declared to be right; None if that is not known yet."""
        if streak.declared is not None:
            return True
        task = streak.holder(None)
        fairy = record.fairy_ref() if record.fairy_ref is not None else None
        reason = streak.sight.declared if streak.sight is not None else None
        reason = reason or _sight.declared(task, fairy, record.loop)
        by_option = reason is None
        if reason is None:
            if streak.keeper is None and fairy is not None and not _sight.shows(task, fairy):
                know_keepers([(each, streak_of(each)) for each in self._slots.out()])
                if streak.keeper is None:
                    return None
            reason = _sight.option_of(task, fairy, streak.keeper() if streak.keeper is not None else None)
        if reason is None:
            return False
        streak.declared = reason
        _holds.excuse(reason, by_option=by_option)
        return True

    def _find(self, record: GuardedRecord, streak: Streak, kind: FindingKind, sight: Sight, seconds: float = 0.0) -> bool:
        """Report a finding, once for a gap; False if the hold is declared to be right."""
        if kind in streak.told_in_gap:
            return streak.declared is None
        excused = self.excused(record, streak)
        if excused is None and kind is not FindingKind.LOOP_BLOCKED:  # that cannot wait
            return False
        streak.told_in_gap.add(kind)
        if excused:
            return False
        streak.told.add(kind)
        task = streak.holder(None)
        trace_id = _sight.trace_of(task) if task is not None else None
        self._reporter.found(record.lease, streak, kind, sight, self._clock(), idle=max(streak.idle, seconds), trace_id=trace_id)
        return True


def _many_short(streak: Streak, patience: float) -> bool:
    """Tell whether many short awaits together make most of a lease, and a long one."""
    awaited = streak.latent + (streak.gap_elsewhere - streak.gap_yielded if streak.declared is None else 0.0)
    return awaited >= _LATENT * patience and awaited * 2 >= streak.lived


def _culprit(blocked: Blocked, streak: Streak, user: Task[Any] | None) -> Site | None:
    """
    Tell at which line the holder blocked the loop with an idle connection in its hands.

    Args:
        blocked: what was seen.
        streak: of the lease.
        user: the task for which the database works now.

    Returns:
        None if most of the time it was somebody else, or the lease had not begun, or the database was at work meanwhile.
    """
    task = streak.holder(None)
    if task is None or (user is not None and user is not task):
        return None
    own = [
        seen.site for seen in blocked.sightings if seen.task is not None and seen.task() is task and seen.at >= streak.granted_at
    ]
    return max(set(own), key=own.count) if own and len(own) * 2 >= len(blocked.sightings) else None
