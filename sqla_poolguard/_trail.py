"""Follows the waits and holds of one pool for those who draw them: the phases of a wait, who ended it, where in a trace a holder is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from sqla_poolguard._callsite import site_of
from sqla_poolguard._course import QUEUE, Course, Giver
from sqla_poolguard._facts import Ending
from sqla_poolguard._tracing import Hold

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable

    from greenlet import greenlet

    from sqla_poolguard._facts import Checkout, Holder, Rejection
    from sqla_poolguard._ledger import Lease
    from sqla_poolguard._reporter import Reporter
    from sqla_poolguard._streak import Streak
    from sqla_poolguard._waiters import Waiter

__all__ = ["Trail"]


class Trail:
    """
    The trail of one pool.

    It is kept only for requests that are not served at once, and at the end of a lease only while somebody waits for it,
    or something was found of it.
    """

    __slots__ = ("_clock", "_reporter", "_told_from", "_tracing", "courses", "is_drawing")

    def __init__(self, reporter: Reporter, clock: Callable[[], float]) -> None:
        """
        Follow nobody yet.

        Args:
            reporter: describes, and knows who draws.
            clock: the pool's clock.
        """
        self._reporter, self._clock = reporter, clock
        self._tracing = reporter.tracing
        self.is_drawing = False
        """Whether anything would have been drawn when somebody began to wait last."""
        self._told_from = min(reporter.observers.waited_from, self._tracing.worth_seeing)
        """Seconds from which anybody wants to hear of a wait."""
        self.courses: dict[greenlet, Course] = {}
        """By the greenlet in which each request waits, connects and pings."""

    def begin(self, phase: str) -> Course:
        """Note that a phase begins of the request that runs."""
        course = self.courses.setdefault(getcurrent(), Course())
        course.begin(phase, self._clock())
        return course

    def queued(self, waiter: Waiter | None) -> Course:
        """Note that the request that runs was in the queue, and how it fared there; None: it was not let in."""
        course = self.courses.setdefault(getcurrent(), Course())
        course.begin(QUEUE, self._clock() if waiter is None else waiter.since)
        if waiter is not None:
            course.ahead, course.giver, course.spot = waiter.ahead, waiter.giver, waiter.spot
        return course

    def served(self, waiter: Waiter, waited: float) -> Course | None:
        """
        Note likewise that it came through the queue and has got its connection; None where nobody is to hear of so short a wait.

        Args:
            waiter: how it fared there.
            waited: seconds since it asked.
        """
        if waiter.spot is None and (waited < self._told_from or not self._concerns(waited)):
            return None
        return self.queued(waiter)

    def here(self) -> Any:
        """Tell where in a trace the running code is, which begins to wait, if that is recorded."""
        self.is_drawing = self._tracing.is_drawing()
        return self._tracing.here() if self.is_drawing else None

    def go_on(self, phase: str, now: float) -> None:
        """Note that a phase begins, if it is a request that runs."""
        course = self.current()
        if course is not None:
            course.begin(phase, now)

    def current(self) -> Course | None:
        """Give the course of the request that runs, if it has one."""
        return self.courses.get(getcurrent())

    def over(self) -> Course | None:
        """Forget the course of the request that runs, and give it."""
        return self.courses.pop(getcurrent(), None)

    def waited(self, lease: Lease, course: Course, now: float) -> None:
        """Tell of a request that got its connection, and not at once."""
        if course.spot is not None and lease.granted_at is not None:
            lease.spot = lease.granted_at, course.spot
        if lease.waited >= self._told_from and self._concerns(lease.waited):
            wait = self._reporter.wait(lease, course, now)
            self._reporter.observers.tell_wait(wait)
            if lease.waited >= self._tracing.worth_seeing:
                self._tracing.waited(wait, course, now)

    def _concerns(self, waited: float) -> bool:
        """Tell whether a wait of so many seconds is to be drawn, or anybody hears of it."""
        is_drawn = waited >= self._tracing.worth_seeing and (self.is_drawing or self._tracing.is_drawing())
        return is_drawn or self._reporter.observers.hear_of_wait(waited)

    def refused(self, rejection: Rejection, course: Course | None, now: float) -> None:
        """Tell of a request that got none."""
        self._tracing.refused(rejection, course, now, self._blockers)

    def leaving(self, lease: Lease) -> Giver | None:
        """Note who gives a connection back while others wait; may be called by the garbage collector, in any thread."""
        if lease.granted_at is None:
            return None
        now, is_lost = self._clock(), lease.ending is Ending.LEAKED
        return Giver(
            lease.place, lease.task, now - lease.granted_at, now, self._last_spot(lease, is_lost=is_lost), is_lost=is_lost
        )

    def given(self, giver: Giver, waiter: Waiter) -> None:
        """Tell a holder whom it has kept waiting."""
        waited = giver.at - waiter.since
        if giver.spot is not None and not giver.is_lost and waited >= self._tracing.worth_seeing:
            self._tracing.blocked(giver, site_of(waiter.place), waiter.spot, waited)

    def ended(self, lease: Lease, checkout: Checkout, now: float) -> None:
        """Tell of a lease that ends, if something was found of it; may be called by the garbage collector, which leaks it."""
        is_lost = checkout.ending is Ending.LEAKED
        if not (lease.notes or is_lost) or lease.granted_at is None:
            return
        spot, streak = self._last_spot(lease, is_lost=is_lost), _streak_of(lease)
        if spot is None:
            return
        hold = Hold(checkout, lease.found, spot, lease.granted_at)
        if streak is not None:
            hold = hold._replace(
                gaps=streak.gaps.close(), left_out=streak.gaps.left_out, in_transaction=streak.idle_in_transaction
            )
        if is_lost:
            self._tracing.keep(hold, now)
        else:
            self._tracing.held(hold, now)

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        self.courses.clear()

    def _last_spot(self, lease: Lease, *, is_lost: bool) -> Any:
        """
        Tell where in a trace a lease is held that ends now.

        That is where it is given back, unless somebody else gives it back: the garbage collector, or the task of another trace.
        """
        streak = _streak_of(lease)
        seen = (streak.spot if streak is not None else None) or self._asked_at(lease) or self._tracing.spot_of(_task_of(lease))
        if is_lost or lease.granted_at is None:
            return seen
        return self._tracing.last_spot(seen, self._clock() - lease.granted_at)

    def _asked_at(self, lease: Lease) -> Any:
        """Tell where in a trace a holder had waited in the queue, if that goes on: a span around its checkout alone is over by now."""
        if lease.spot is None or lease.spot[0] != lease.granted_at or not self._tracing.is_open(lease.spot[1]):
            return None
        return lease.spot[1]

    def _blockers(self, most: int) -> list[tuple[Holder, Any]]:
        """Give those who have held the longest, and where in a trace they are."""
        now, found = self._clock(), []
        for lease in self._reporter.ledger.leases()[:most]:
            streak = _streak_of(lease)
            spot = self._tracing.spot_of(_task_of(lease)) or (streak.spot if streak is not None else None)
            found.append((self._reporter.holder(lease, now), spot))
        return found


def _streak_of(lease: Lease) -> Streak | None:
    streak = lease.streak
    return streak if streak is not None and streak.granted_at == lease.granted_at else None


def _task_of(lease: Lease) -> Task[Any] | None:
    return lease.task() if lease.task is not None else None
