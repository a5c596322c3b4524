"""Looks, some times a second, at what the connections of one pool are doing in their holders' hands. It decides from facts only."""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sqla_poolguard import _probe, _reach, _sight
from sqla_poolguard._awaits import CONTEXTS_ARE_TOLD, chain_of
from sqla_poolguard._callsite import is_internal, this_task
from sqla_poolguard._census import Census, Inquiry
from sqla_poolguard._conflicts import find_deadlock
from sqla_poolguard._facts import SECOND, HolderState
from sqla_poolguard._judge import Judge
from sqla_poolguard._sight import Sight, Surroundings
from sqla_poolguard._streak import streak_of
from sqla_poolguard._ticker import PAUSE, ticker

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable, Iterable

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._facts import Site
    from sqla_poolguard._guard import Guard
    from sqla_poolguard._handover import Handover
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._reporter import Reporter
    from sqla_poolguard._slots import Slots
    from sqla_poolguard._streak import Streak
    from sqla_poolguard._ticker import Beat, Blocked

__all__ = ["Sampler", "drivers_of"]

_log: Final = logging.getLogger("sqla_poolguard")

_T = TypeVar("_T")
_D = TypeVar("_D")

_PARTS: Final = 10
_SHORTEST_PAUSE: Final = 0.01
_WAITERS_SEEN: Final = 1000
_FIRST: Final = 1 if CONTEXTS_ARE_TOLD else 4
"""Pauses from a lease's first sample to the last one that asks where in a trace it is held."""


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
        self._clock = clock
        self._judge = Judge(guard, slots, handover, reporter, clock)
        self._patience = self._judge.patience
        self.pause = min(max(self._patience / _PARTS, _SHORTEST_PAUSE), PAUSE)
        self.rest = on_rest
        self._failed = False
        self._censuses: WeakKeyDictionary[AbstractEventLoop, dict[int, Census]] = WeakKeyDictionary()
        """By depth: the tasks of one loop tell nothing of the connections of another."""

    def wake(self, loop: AbstractEventLoop) -> None:
        """Look, in the running loop, as long as anything is out."""
        ticker.wake(self, loop)

    def sample(self, beat: Beat, blocked: Blocked | None) -> bool:
        """Look at every connection that is out in a loop; False if none is."""
        looked = self._quietly(lambda: self._sample(beat, blocked), None)
        return self._is_busy() if looked is None else looked

    def look_now(self, loop: AbstractEventLoop | None, *, asks: bool = False) -> tuple[tuple[float, Site | None] | None, float]:
        """
        See what every holder in the running loop does at this moment; nothing is found or counted.

        Args:
            loop: the running loop.
            asks: whether the running task asks for a connection.

        Returns:
            For how many seconds the loop has just stood still, and at which line (None if it has not);
            and for which share of the last seconds it was late.
        """
        return self._quietly(lambda: self._look_now(loop, asks=asks), (None, 0.0))

    def excused(self, record: GuardedRecord) -> bool | None:
        """Tell whether a hold is declared to be right; None if that is not known yet."""
        return self._quietly(lambda: (self._judge.excused(record, streak_of(record)),), (False,))[0]

    def trace_of(self, record: GuardedRecord) -> str | None:
        """Tell in which trace a holder works."""
        self._quietly(functools.partial(self._locate, record, streak_of(record), math.inf), None)
        task = streak_of(record).holder(None)
        return self._quietly(lambda: _sight.trace_of(task) if task is not None else None, None)

    def _locate(self, record: GuardedRecord, streak: Streak, passed: float) -> None:
        """Note where in a trace a lease is held; asked by the first samples, when its holder is where it began."""
        if streak.spot is None and streak.lived <= _FIRST * passed:
            streak.spot = self.reporter.tracing.spot_of(_alive(record.lease.task))

    def _quietly(self, look: Callable[[], _T], otherwise: _D) -> _T | _D:
        """Look, and break nothing by it, nor fill the log."""
        try:
            return look()
        except Exception:  # noqa: BLE001
            if not self._failed:
                self._failed = True
                _log.exception(
                    "bug: looking at the connections of pool %r failed; further failures are not logged", self.reporter.name
                )
        return otherwise

    def _look_now(self, loop: AbstractEventLoop | None, *, asks: bool) -> tuple[tuple[float, Site | None] | None, float]:
        records = [record for record in self.slots.out() if record.loop is loop]
        beat = ticker.beat_of(loop)
        around = self.surroundings(records, beat)
        asking = this_task()
        for record in records:
            streak, look = streak_of(record), _probe.look(_probe.driver_of(record.dbapi_connection))
            if look is None:
                continue
            streak.sight = self._see(record, streak, look, around)
            if asks and asking is not None and streak.holder(None) is asking:  # it is refused a second one just now
                streak.sight = Sight(HolderState.NESTED, None, SECOND, asking.get_name())
        return (beat.blocked_lately(), beat.lateness()) if beat is not None else (None, 0.0)

    def _sample(self, beat: Beat, blocked: Blocked | None) -> bool:
        out = self.slots.out()
        records = [record for record in out if record.loop is beat.loop]
        around = self.surroundings(records, beat)
        for census in self._censuses.get(beat.loop, {}).values():
            if census.is_asked:
                self._quietly(functools.partial(census.go_on, beat.loop, drivers_of(records)), None)
        for record in records:
            if record.lease.granted_at is not None:
                self._quietly(functools.partial(self._sample_one, record, around, beat, blocked), None)
        if (
            self.slots.waiters.queued
            and len(out) == self.slots.taken
            and (proof := find_deadlock(self, _samplers(beat), beat.loop, around))
        ):
            self._judge.deadlock(out, *proof)
        return self._is_busy()

    def _is_busy(self) -> bool:
        """Tell whether a connection is out, or being opened, or waited for."""
        return self.slots.taken > len(self.slots.idle) or bool(self.slots.waiters.queued)

    def _sample_one(self, record: GuardedRecord, around: Surroundings, beat: Beat, blocked: Blocked | None) -> None:
        streak = streak_of(record)
        now = self._clock()
        passed = streak.tick(now, beat.lag)
        self._locate(record, streak, passed)
        driver = _probe.driver_of(record.dbapi_connection)
        look = _probe.look(driver)
        if look is None:
            return
        user = look.user if look.user is not None and not _is_internal_task(look.user) else None
        if blocked is not None:
            self._judge.blocked(record, streak, blocked, None if _is_internal_task(look.user, "close") else look.user)
        if user is not None:
            streak.use(user)
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
        streak.idle_in_transaction = streak.idle_in_transaction or look.in_transaction
        streak.gaps.see(now, sight.current, sight.awaiting)
        self._judge.count(record, streak, sight, passed, beat.passed)
        self._judge.idle(record, streak, sight)

    @staticmethod
    def _feeds(streak: Streak, driver: object) -> bool:
        """Tell whether the database waits for the holder's own code."""
        task = streak.holder(None)
        return task is not None and chain_of(task).feeds(driver)

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
                streak.inquiry = self._ask(record.loop, _reach.DEEP, fairy)
        if streak.inquiry is not None and streak.inquiry.found is not None:
            streak.adopt(streak.inquiry.found)
            streak.inquiry = None
        last = streak.sight
        if last is not None and last.still is not None and last.still.lasts(task):
            return last
        driver = _probe.driver_of(record.dbapi_connection)
        return _sight.attribute(task, lease, driver, fairy, around)

    def _see_orphan(self, record: GuardedRecord, streak: Streak, fairy: object) -> Sight:
        """See who has a connection whose task has finished."""
        if not streak.gone:
            streak.gone, streak.inquiry = True, None
        if streak.inquiry is None:
            depth = _reach.DEEP if streak.used_late or _sight.is_helper(record.lease.place) else _reach.DIRECTLY
            streak.inquiry = self._ask(record.loop, depth, fairy)
        if streak.inquiry.found is not None:
            streak.adopt(streak.inquiry.found)
            return Sight(HolderState.RUNNING)  # until the next look
        return Sight(HolderState.ORPHANED if streak.inquiry.is_over else HolderState.RUNNING)

    def _ask(self, loop: AbstractEventLoop | None, depth: int, fairy: object) -> Inquiry:
        """Ask which task of a loop has a connection; where there is nothing to ask, nobody has it."""
        if loop is None or fairy is None:
            return Inquiry.answered()
        censuses = self._censuses.setdefault(loop, {})
        return censuses.setdefault(depth, Census(depth)).ask(fairy)

    def surroundings(self, records: list[GuardedRecord], beat: Beat | None) -> Surroundings:
        """See who else waits and holds."""
        slots = self.slots
        holding: dict[int, list[tuple[float, Place | None]]] = {}
        for record in records:
            lease = record.lease
            task = _alive(lease.task)
            if task is not None and lease.granted_at is not None:
                holding.setdefault(id(task), []).append((lease.granted_at, lease.place))
        others = [sampler for sampler in _samplers(beat) if sampler is not self]
        return Surroundings(
            holding,
            lambda: {id(task): waiter.place for task, waiter in slots.waiters.tasks(_WAITERS_SEEN)},
            lambda: {id(task): other.reporter.name for other in others for task in other.waiting()},
        )

    def seconds_to_first_timeout(self) -> float:
        """Tell in how many seconds the first waiter is turned away by itself."""
        return self.slots.next_deadline() - self._clock()

    def waiting(self) -> list[Task[Any]]:
        """Give the tasks that queue for the pool."""
        return [task for task, _ in self.slots.waiters.tasks(_WAITERS_SEEN)]


def drivers_of(records: Iterable[GuardedRecord]) -> dict[int, int]:
    """Give the pool's connections (by id) by the driver's own (by id)."""
    return {
        id(driver): id(fairy)
        for record in records
        if (driver := _probe.driver_of(record.dbapi_connection)) is not None
        and record.fairy_ref is not None
        and (fairy := record.fairy_ref()) is not None
    }


def _samplers(beat: Beat | None) -> list[Sampler]:
    return [sampler for sampler in list(beat.samplers) if isinstance(sampler, Sampler)] if beat is not None else []


def _alive(reference: Any) -> Task[Any] | None:
    task = reference() if reference is not None else None
    return task if task is not None and not task.done() else None


def _is_internal_task(task: Task[Any] | None, name: str | None = None) -> bool:
    """Tell whether a task runs nothing but SQLAlchemy; with a name, this function of its."""
    code = getattr(task.get_coro(), "cr_code", None) if task is not None else None
    return code is not None and is_internal(code.co_filename) and name in {None, code.co_name}
