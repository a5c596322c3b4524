"""Keeps the books of a pool and tells what happens in it: who got, gave back, lost or was refused a connection."""

from __future__ import annotations

import asyncio
import math
import weakref
from asyncio import current_task
from asyncio.events import _get_running_loop
from contextvars import Context
from typing import TYPE_CHECKING, Final

from sqlalchemy.util.concurrency import greenlet_spawn

from sqla_poolguard._callsite import this_task
from sqla_poolguard._facts import Ending, Opened, Reason
from sqla_poolguard._finding import FindingKind
from sqla_poolguard._gate import Gate
from sqla_poolguard._sampler import Sampler
from sqla_poolguard._sweeper import Sweeper
from sqla_poolguard._trail import Trail
from sqla_poolguard._waiters import Waiter
from sqla_poolguard.errors import NoConnectionError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._facts import PoolSnapshot
    from sqla_poolguard._guard import Guard
    from sqla_poolguard._handover import Handover
    from sqla_poolguard._ledger import Lease
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._reporter import Reporter
    from sqla_poolguard._slots import Slots

__all__ = ["Watch"]

_TIMER_SLACK: Final = 0.001
"""Seconds by which an event loop may fire a timer early (uvloop counts in milliseconds)."""


class Watch:
    """The eyes of one pool, and its one timer."""

    def __init__(
        self,
        guard: Guard,
        slots: Slots[GuardedRecord],
        handover: Handover,
        reporter: Reporter,
        clock: Callable[[], float],
        patience: float,
    ) -> None:
        self.reporter = reporter
        self.ledger = reporter.ledger
        self._observers = reporter.observers
        self._slots = slots
        self._handover = handover
        self._clock = clock
        self.gate = Gate(guard, slots, handover, reporter, patience)
        self.sweep_outage: Callable[[float], float] = lambda _now: math.inf
        """Looks after an outage; returns when it is to be called again, on the pool's clock."""
        self._hold_warning = math.inf if guard.hold_warning is None else guard.hold_warning
        self._linger = guard.overflow_linger
        self._trim_at = math.inf
        self._trimming: set[Task[None]] = set()
        handover.linger = self._put_off_closing
        self.trail = Trail(reporter, clock)
        handover.tell_giver = self.trail.given
        self._sweeper = Sweeper(self._sweep)
        self.sampler = Sampler(guard, slots, handover, reporter, clock, self._rest)
        self._home: AbstractEventLoop | None = None
        """The event loop of the last checkout."""
        self._timed = False
        """Whether the timer is set in it for the first lease that will be overdue."""

    @property
    def home(self) -> AbstractEventLoop | None:
        """The event loop of the last checkout."""
        return self._home

    def granted(self, lease: Lease, asked_at: float, loop: AbstractEventLoop | None, place: Place | None) -> None:
        """Note who got a connection in the end."""
        now, course = self._clock(), lease.course
        if lease.waiter is not None:
            waiter, lease.waiter = lease.waiter, None
            course = self.trail.served(waiter, now - asked_at)
        if course is not None:
            lease.course = None
            self.trail.over()
        self.ledger.grant(lease, now, now - asked_at)
        self.identify(lease, now, loop, place)
        if course is not None:
            self.trail.waited(lease, course, now)

    def identify(self, lease: Lease, now: float, loop: AbstractEventLoop | None, place: Place | None) -> None:
        """Note on the lease who holds it, and see that somebody looks when it gets overdue."""
        if lease.task is None and loop is not None and (task := current_task(loop)) is not None:  # known of one that has waited
            lease.task = weakref.ref(task)
        lease.place = place
        if loop is not self._home or not self._timed:
            self._set_timer(loop, now)
        if self._observers.granted:
            self.reporter.tell(self._observers.granted, self.reporter.holder(lease, now))

    def _set_timer(self, loop: AbstractEventLoop | None, now: float) -> None:
        """Have the first lease of a loop looked at when it gets overdue; those that follow are seen then."""
        self._home = loop
        self._timed = True
        if loop is not None:
            self._sweeper.wake_by(now + self._hold_warning, now)
            self.sampler.wake(loop)

    def _rest(self) -> None:
        """Have the next checkout wake the sampler again."""
        self._timed = False

    def ended(self, record: GuardedRecord, lease: Lease) -> None:
        """Note how a lease ended; may be called by the garbage collector, in any thread."""
        ending = lease.ending
        if ending is None:  # no event told: then the connection is still there, or detach() has taken it
            ending = Ending.CHECKED_IN if record.dbapi_connection is not None else Ending.DETACHED
        now = self._clock()
        try:
            if lease.notes or ending is Ending.LEAKED or self._observers.ended:
                self._tell_ended(lease, now, ending)
        finally:
            self.ledger.end(lease, now, ending)

    def _tell_ended(self, lease: Lease, now: float, ending: Ending) -> None:
        observers = self._observers
        checkout = self.reporter.checkout(lease, now, ending)
        self.trail.ended(lease, checkout, now)
        if ending is Ending.LEAKED:
            self.reporter.lost(lease, now, self._home)
            self.reporter.tell_later(observers.leaked + observers.ended, checkout, self._home)
        else:
            self.reporter.tell(observers.returned + observers.ended if lease.reported else observers.ended, checkout)

    def refused(self, error: BaseException, asked_at: float, place: Place | None) -> None:
        """Note that a request failed, and why."""
        if isinstance(error, NoConnectionError):
            reason = Reason(error.reason)
        else:
            reason = Reason.CONNECT_FAILED if isinstance(error, Exception) else Reason.CANCELLED
        self.ledger.reject(reason)
        course = self.trail.over()
        task, now = this_task(), self._clock()
        name = task.get_name() if task is not None else None
        rejection = self.reporter.rejection(reason, now - asked_at, place, name, error)
        self.reporter.tell(self._observers.rejected, rejection)
        self.trail.refused(rejection, course, now)

    def refusal(self, reason: Reason, asked_at: float, proof: tuple[str, ...] = ()) -> Exception:
        """Make the error for a request that gets no connection."""
        now = self._clock()
        return self.reporter.refusal(reason, now - asked_at, self._slots, now, self.sampler, self.gate.gap(now), proof)

    def unavailable(self, cause: BaseException, asked_at: float) -> Exception:
        """Make the error for a request while the database cannot be reached."""
        now = self._clock()
        return self.reporter.unavailable(cause, now - asked_at, self._slots, now, self.gate.pace(now))

    def opened(self, seconds: float) -> None:
        """Note a physical connection."""
        self.ledger.connected(seconds)
        if self._observers.opened:
            self.reporter.tell(self._observers.opened, Opened(self.reporter.name, seconds))

    def waiter(self, loop: AbstractEventLoop, now: float, deadline: float, place: Place | None) -> Waiter | Reason:
        """Make a waiter that knows who it is, with the timer set for its deadline; or tell why it may not wait."""
        level, task = self.gate.level(current_task(loop))
        reason = self.gate.enter(now, level)
        if reason is not None:
            return reason
        armed_in, at = self._sweeper.armed
        if loop is not armed_in or deadline < at:
            self._sweeper.wake_by(deadline, now)
        return Waiter(loop.create_future(), now, deadline, task, place, level, self.trail.here())

    def wake_by(self, at: float, now: float) -> None:
        """Look after everything in the running loop at `at`, on the pool's clock, or before."""
        self._sweeper.wake_by(at, now)

    def forget(self) -> None:
        """Begin anew, in a forked child: books, timers and what was still to be told are the parent's."""
        self.ledger.forget()
        self.reporter.forget()
        self.gate.forget()
        self._sweeper.forget()
        self.trail.forget()
        self._home, self._timed, self._trim_at = None, False, math.inf

    def snapshot(self) -> PoolSnapshot:
        """Look at the pool as it is now."""
        self.reporter.tell_late()
        self.sampler.look_now(_get_running_loop())
        return self.reporter.snapshot(self._slots, self._clock())

    def _sweep(self) -> None:
        """Turn away whose time is up, report who holds too long, and set the timer for what is due next."""
        now = self._clock()
        due = outage_due = math.inf
        try:
            outage_due = self.sweep_outage(now + _TIMER_SLACK)
            self._handover.expire(now + _TIMER_SLACK)
            self._trim(now)
            due = self._report_overdue(now)
            self.reporter.tell_late()
        finally:
            self._sweeper.wake_by(min(self._slots.next_deadline(), due, self._trim_at, outage_due), now)

    def _put_off_closing(self) -> bool:
        """Keep an idle connection above `pool_size` for `overflow_linger` seconds."""
        if not self._linger or self._slots.retired or _get_running_loop() is None:
            return False
        now = self._clock()
        self._trim_at = min(self._trim_at, now + self._linger)
        self._sweeper.wake_by(self._trim_at, now)
        return True

    def _trim(self, now: float) -> None:
        """Close the connections above `pool_size` that have been idle long enough."""
        if now < self._trim_at - _TIMER_SLACK:
            return
        idle, keep = self._slots.idle.copy(), self._slots.keep
        long_idle = sum(now - record.lease.idle_since >= self._linger - _TIMER_SLACK for record in idle)
        surplus = max(len(idle) - keep, 0)
        self._trim_at = now + self._linger / 4 if surplus > long_idle else math.inf
        if min(surplus, long_idle):
            self._begin(self._handover.close_idle, len(idle) - min(surplus, long_idle))

    def run_in(self, loop: AbstractEventLoop | None, work: Callable[[], None]) -> None:
        """Have something done soon that awaits, in a loop; if there is none, or it does not run any more, do it here, now."""
        if loop is not None and loop is _get_running_loop():
            self._begin(work)
            return
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._begin, work, context=Context())
                return
        except RuntimeError:  # it was closed just now
            pass
        work()

    def _begin(self, work: Callable[..., None], *args: float) -> None:
        """Begin something that awaits, in the running loop."""
        task = Context().run(asyncio.ensure_future, greenlet_spawn(work, *args))
        self._trimming.add(task)
        task.add_done_callback(self._trimming.discard)

    def _report_overdue(self, now: float) -> float:
        """Report the leases that are overdue, once each; return when to look again, infinity if nothing else is out."""
        due = math.inf
        for record in self._slots.out():
            lease = record.lease
            if FindingKind.OVERDUE in lease.reported or lease.granted_at is None:
                continue
            if now - lease.granted_at >= self._hold_warning - _TIMER_SLACK:
                excused = self.sampler.excused(record)
                if excused is None:  # not known yet
                    due = now
                if excused is not False:
                    continue
                self.sampler.look_now(_get_running_loop())
                lease.note(FindingKind.OVERDUE, is_news=True)
                self.reporter.overdue(lease, now, self.sampler.trace_of(record))
            else:
                due = min(due, lease.granted_at + self._hold_warning)
        self._timed = due < math.inf
        return max(due, now + self._hold_warning / 20) if self._timed else math.inf
