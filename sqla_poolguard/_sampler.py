"""Looks, some times a second, at what the connections of one pool are doing in their holders' hands. It decides from facts only."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard import _holds, _probe, _reach, _sight
from sqla_poolguard._awaits import chain_of
from sqla_poolguard._callsite import is_internal, site_of
from sqla_poolguard._conflicts import find_deadlock
from sqla_poolguard._facts import HolderState
from sqla_poolguard._finding import FindingKind
from sqla_poolguard._reclaim import reclaim
from sqla_poolguard._sight import Sight, Surroundings
from sqla_poolguard._streak import Streak
from sqla_poolguard._ticker import PAUSE, ticker

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable

    from sqla_poolguard._facts import Site
    from sqla_poolguard._guard import Guard
    from sqla_poolguard._handover import Handover
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._reporter import Reporter
    from sqla_poolguard._slots import Slots
    from sqla_poolguard._ticker import Beat, Blocked

__all__ = ["Sampler"]

_log: Final = logging.getLogger("sqla_poolguard")

_PARTS: Final = 10
_SHORTEST_PAUSE: Final = 0.01
_LATENT: Final = 1.5
"""Times `await_warning` that many short awaits together may take."""
_TWICE: Final = 2
_WAITERS_SEEN: Final = 1000


class Sampler:
    """The eyes of one pool for what its holders wait for."""

    def __init__(
        self,
        guard: Guard,
        slots: Slots[GuardedRecord],
        handover: Handover,
        reporter: Reporter,
        clock: Callable[[], float],
        on_rest: Callable[[], None],
    ) -> None:
        """
        Make a sampler that does not look yet.

        Args:
            guard: what to look for.
            slots: the connections of the pool, and who waits for them.
            handover: takes connections back, and turns waiters away.
            reporter: is told what was found.
            clock: the pool's clock.
            on_rest: called when nothing is out any more, and nobody looks until `wake` is called again.
        """
        self.slots, self.reporter = slots, reporter
        self._guard, self._handover, self._clock = guard, handover, clock
        self._patience = math.inf if guard.await_warning is None else guard.await_warning
        self.pause = min(max(self._patience / _PARTS, _SHORTEST_PAUSE), PAUSE)
        self.rest = on_rest
        self._failed = False

    def wake(self, loop: AbstractEventLoop) -> None:
        """Look, in the running loop, as long as anything is out."""
        ticker.wake(self, loop)

    def sample(self, beat: Beat, blocked: Blocked | None) -> bool:
        """Look at every connection that is out in a loop; False if none is."""
        try:
            return self._sample(beat, blocked)
        except Exception:  # noqa: BLE001 - whoever looks on must not break anything, nor fill the log
            if not self._failed:
                self._failed = True
                _log.exception(
                    "bug: looking at the connections of pool %r failed; further failures are not logged", self.reporter.name
                )
            return bool(self.slots.out())

    def look_now(self, loop: AbstractEventLoop | None) -> tuple[float, Site | None] | None:
        """
        See what every holder in the running loop does at this moment; nothing is found or counted.

        Returns:
            For how many seconds the loop has just stood still, and at which line; None if it has not.
        """
        records = [record for record in self.slots.out() if record.loop is loop]
        beat = ticker.beat_of(loop)
        around = self._surroundings(records, beat)
        for record in records:
            streak, look = self._streak(record), _probe.look(_probe.driver_of(record.dbapi_connection))
            if look is not None:
                streak.sight = self._see(record, streak, look, around)
        return beat.blocked_lately() if beat is not None else None

    def _sample(self, beat: Beat, blocked: Blocked | None) -> bool:
        out = self.slots.out()
        records = [record for record in out if record.loop is beat.loop]
        around = self._surroundings(records, beat)
        for record in records:
            if record.lease.granted_at is not None:
                self._sample_one(record, around, beat, blocked)
        if self.slots.waiters.queue and len(out) == self.slots.taken:
            self._resolve(beat)
        return bool(out or self.slots.waiters.queue)

    def _sample_one(self, record: GuardedRecord, around: Surroundings, beat: Beat, blocked: Blocked | None) -> None:
        streak = self._streak(record)
        passed = streak.tick(self._clock(), beat.lag)
        driver = _probe.driver_of(record.dbapi_connection)
        look = _probe.look(driver)
        if look is None:
            return
        if blocked is not None and blocked.seconds >= self._patience and (site := _culprit(blocked, streak)) is not None:
            self._find(record, streak, FindingKind.LOOP_BLOCKED, Sight(HolderState.RUNNING, site), blocked.seconds)
        if look.user is not None and not _is_internal_task(look.user):
            streak.use(look.user)
        if look.busy and look.user is None and self._feeds(streak, driver):
            look = look._replace(busy=False)
        moved = streak.operations != look.operations
        if look.busy or moved:
            streak.begin_gap(look.operations, used=moved or look.busy)
        sight = streak.sight = self._see(record, streak, look, around)
        streak.in_transaction = look.in_transaction
        if sight.state is HolderState.IN_DATABASE:
            streak.in_database += passed
            streak.begin_gap(look.operations, used=look.busy)
            return
        if sight.state in {HolderState.AWAITING, HolderState.NESTED}:
            streak.add_elsewhere(sight.current, sight.awaiting, passed)
            self.reporter.findings.add_waste(sight.current, sight.awaiting, passed)
        self._judge(record, streak, sight)

    @staticmethod
    def _feeds(streak: Streak, driver: object) -> bool:
        """Tell whether the database waits for the holder's own code."""
        task = streak.holder(None)
        return task is not None and chain_of(task).feeds(driver)

    def _streak(self, record: GuardedRecord) -> Streak:
        lease = record.lease
        streak = lease.streak
        if streak is None or streak.granted_at != lease.granted_at:
            streak = lease.streak = Streak(lease.granted_at or 0.0, lease.task)
        return streak

    def _see(self, record: GuardedRecord, streak: Streak, look: _probe.Look, around: Surroundings) -> Sight:
        """See what a connection's holder does."""
        lease = record.lease
        task = streak.holder(look.user)
        if look.busy:
            return Sight(HolderState.IN_DATABASE, task=task.get_name() if task is not None else None)
        fairy = record.fairy_ref() if record.fairy_ref is not None else None
        if task is None:
            if streak.task is None:
                return Sight(HolderState.RUNNING)
            return self._see_orphan(record, streak, fairy)
        if not streak.checked and streak.idle >= self._patience / 2:
            streak.checked = True
            if (
                task is not streak.adopted()
                and record.loop is not None
                and not _reach.reaches(chain_of(task), fairy, _reach.DEEP)
            ):
                streak.search = _sight.Search(record.loop, _reach.DEEP)
        if streak.search is not None and streak.search.go_on(fairy) and streak.search.found is not None:
            streak.adopt(streak.search.found)
            streak.search = None
        last = streak.sight
        future = last.lasting() if last is not None and last.lasting is not None else None
        if future is not None and not future.done() and getattr(task, "_fut_waiter", None) is future and last is not None:
            return last
        driver = _probe.driver_of(record.dbapi_connection)
        return _sight.attribute(task, lease, driver, fairy, around)

    def _see_orphan(self, record: GuardedRecord, streak: Streak, fairy: object) -> Sight:
        """See who has a connection whose task has finished."""
        streak.gone = True
        if streak.search is None:
            depth = _reach.DEEP if streak.used_late or _sight.is_helper(record.lease.place) else _reach.DIRECTLY
            streak.search = _sight.Search(record.loop, depth) if record.loop is not None else None
        if streak.search is not None:
            if not streak.search.go_on(fairy):
                return Sight(HolderState.RUNNING)
            if streak.search.found is not None:
                streak.adopt(streak.search.found)
                return Sight(HolderState.RUNNING)  # until the next look
        return Sight(HolderState.ORPHANED)

    def _judge(self, record: GuardedRecord, streak: Streak, sight: Sight) -> None:
        """Find out whether something is wrong with a connection that is idle."""
        patience = self._patience
        if sight.state is HolderState.NESTED:
            streak.nested += 1
            if streak.nested == _TWICE:
                self._find(record, streak, FindingKind.NESTED, sight)
            return
        streak.nested = 0
        if sight.state is HolderState.ORPHANED and streak.idle >= patience:
            if self._find(record, streak, FindingKind.ORPHANED, sight) and self._guard.reclaim == "orphaned":
                reclaim(record, self.reporter)
        elif sight.state is HolderState.AWAITING:
            if streak.idle >= patience and streak.gap_elsewhere * 2 >= streak.idle:
                self._find(record, streak, FindingKind.HELD_ACROSS_AWAIT, sight)
            elif streak.elsewhere >= _LATENT * patience and streak.elsewhere * 2 >= streak.lived and not streak.told:
                worst = streak.worst()
                self._find(record, streak, FindingKind.HELD_ACROSS_AWAIT, sight._replace(current=worst[0], awaiting=worst[1]))

    def _find(self, record: GuardedRecord, streak: Streak, kind: FindingKind, sight: Sight, seconds: float = 0.0) -> bool:
        """Report a finding, once for a gap; False if the hold is declared to be right."""
        if kind in streak.told_in_gap:
            return streak.declared is None
        streak.told_in_gap.add(kind)
        if self.excused(record):
            return False
        streak.told.add(kind)
        task = streak.holder(None)
        trace_id = _sight.trace_of(task) if task is not None else None
        self.reporter.found(record.lease, streak, kind, sight, self._clock(), idle=max(streak.idle, seconds), trace_id=trace_id)
        return True

    def excused(self, record: GuardedRecord) -> bool:
        """Tell whether a hold is declared to be right."""
        streak = self._streak(record)
        if streak.declared is None:
            task = streak.holder(None)
            fairy = record.fairy_ref() if record.fairy_ref is not None else None
            found = _sight.declared(task, fairy)
            if found is None:
                return False
            streak.declared = found[0]
            _holds.excuse(found[0], by_option=found[1])
        return True

    def _surroundings(self, records: list[GuardedRecord], beat: Beat | None) -> Surroundings:
        """See who else waits and holds."""
        slots = self.slots
        waiting = {
            id(task): site_of(waiter.place) for waiter in slots.waiters.live(_WAITERS_SEEN) if (task := _alive(waiter.task))
        }
        holding: dict[int, list[tuple[float, Site | None]]] = {}
        for record in records:
            lease = record.lease
            task = _alive(lease.task)
            if task is not None and lease.granted_at is not None:
                holding.setdefault(id(task), []).append((lease.granted_at, site_of(lease.place)))
        others = {id(task): other.reporter.name for other in _samplers(beat) if other is not self for task in other.waiting()}
        return Surroundings(waiting, holding, others)

    def waiting(self) -> list[Task[Any]]:
        """Give the tasks that queue for the pool."""
        return [task for waiter in self.slots.waiters.live(_WAITERS_SEEN) if (task := _alive(waiter.task)) is not None]

    def _resolve(self, beat: Beat) -> None:
        """Turn one waiter away if no holder can ever go on."""
        proof = find_deadlock(self, _samplers(beat), beat.loop)
        if proof is None:
            return
        waiter, lines = proof
        lease = next(iter(sorted((record.lease for record in self.slots.out()), key=lambda lease: lease.granted_at or 0.0)))
        streak = lease.streak or Streak(lease.granted_at or 0.0, lease.task)
        if FindingKind.DEADLOCK in streak.told_in_gap and self._guard.deadlock == "warn":
            return
        streak.told_in_gap.add(FindingKind.DEADLOCK)
        sight = Sight(HolderState.NESTED, site_of(waiter.place), "a connection of this pool", None, lines)
        self.reporter.found(lease, streak, FindingKind.DEADLOCK, sight, self._clock(), idle=streak.idle)
        if self._guard.deadlock == "fail":
            self._handover.refuse(waiter, lines)


def _samplers(beat: Beat | None) -> list[Sampler]:
    return [sampler for sampler in list(beat.samplers) if isinstance(sampler, Sampler)] if beat is not None else []


def _alive(reference: Any) -> Task[Any] | None:
    task = reference() if reference is not None else None
    return task if task is not None and not task.done() else None


def _is_internal_task(task: Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and is_internal(code.co_filename)


def _culprit(blocked: Blocked, streak: Streak) -> Site | None:
    """Tell at which line the holder blocked the loop; None if most of the time it was somebody else."""
    task = streak.holder(None)
    own = [site for site, reference in blocked.sightings if reference is not None and reference() is task and task is not None]
    return max(set(own), key=own.count) if own and len(own) * 2 >= len(blocked.sightings) else None
