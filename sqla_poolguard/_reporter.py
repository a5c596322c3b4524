"""Turns leases into facts and tells them to the observers, at a moment when that is safe. It hands out no connection."""

from __future__ import annotations

from asyncio.events import _get_running_loop
from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._callsite import site_of, stack_of, task_name
from sqla_poolguard._facts import Checkout, Holder, PoolSnapshot, Reason, Rejection, Wait
from sqla_poolguard._finding import Finding, FindingKind, LeakKind
from sqla_poolguard._findings import Findings
from sqla_poolguard._holds import declarations
from sqla_poolguard._outage import classify, keepsake
from sqla_poolguard._retry import RetryLine
from sqla_poolguard._verdict import deadlocked, judge
from sqla_poolguard.errors import CheckoutRejected, CheckoutTimeout, DatabaseUnavailable

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from sqla_poolguard._course import Course
    from sqla_poolguard._facts import Ending
    from sqla_poolguard._finding import Verdict
    from sqla_poolguard._ledger import Lease, Ledger
    from sqla_poolguard._naming import Claim
    from sqla_poolguard._observers import Observers
    from sqla_poolguard._sampler import Sampler
    from sqla_poolguard._sight import Sight
    from sqla_poolguard._slots import Slots
    from sqla_poolguard._streak import Streak
    from sqla_poolguard._tracing import Tracing
    from sqla_poolguard.errors import CheckoutError

__all__ = ["Reporter"]

_WAITERS_SHOWN = 100
_LOOK_SHARED = 0.05
_SHED: Final = frozenset({Reason.REJECTED, Reason.QUEUE_FULL})

Listeners = tuple["Callable[[Any], None]", ...]


class Reporter:
    """Speaks for one engine's pool, through all its generations."""

    def __init__(self, taken: Claim, ledger: Ledger, observers: Observers, tracing: Tracing) -> None:
        self._claim, self.name, self.tracing = taken, taken.name, tracing  # the name is taken as long as we have the claim
        self.ledger, self.observers = ledger, observers
        self.findings = Findings()
        self._late: deque[tuple[Listeners, object]] = deque()
        self._retry = RetryLine()
        self.told_of_outage = False
        """Whether the log has told that the database cannot be reached, and not yet that it can."""
        self._last_look: tuple[float, tuple[int, int], PoolSnapshot, Verdict | None] | None = None

    def holder(self, lease: Lease, now: float) -> Holder:
        """Describe a lease that is out."""
        held = max(now - lease.granted_at, 0.0) if lease.granted_at is not None else 0.0
        place, streak = lease.place, _streak_of(lease)
        sight = streak.sight if streak is not None else None
        return Holder(
            self.name,
            site_of(place),
            task_name(lease.task),
            held,
            lease.waited,
            overdue=FindingKind.OVERDUE in lease.reported,
            stack=stack_of(place),
            state=sight.state if sight is not None else None,
            current=sight.current if sight is not None else None,
            awaiting=sight.awaiting if sight is not None else None,
            in_database=streak.in_database if streak is not None and sight is not None else None,
            declared=streak.declared if streak is not None else None,
            details=sight.details if sight is not None else (),
            within=sight.within if sight is not None else (),
        )

    def checkout(self, lease: Lease, now: float, ending: Ending) -> Checkout:
        """Describe a lease that is just ending."""
        held = now - lease.granted_at if lease.granted_at is not None else 0.0
        place, streak = lease.place, _streak_of(lease)
        return Checkout(
            self.name,
            site_of(place),
            task_name(lease.task),
            lease.waited,
            held,
            ending,
            stack_of(place),
            reported=tuple(str(kind) for kind in lease.reported),
            in_database=streak.in_database if streak is not None else None,
            elsewhere=streak.elsewhere if streak is not None else None,
        )

    def found(
        self,
        lease: Lease,
        streak: Streak | None,
        kind: FindingKind,
        sight: Sight | None,
        now: float,
        *,
        idle: float = 0.0,
        trace_id: str | None = None,
    ) -> None:
        """Write down what was found, and tell it if it is news."""
        place = lease.place
        finding = Finding(
            pool=self.name,
            kind=kind,
            site=site_of(place),
            current=sight.current if sight is not None else None,
            awaiting=sight.awaiting if sight is not None else None,
            held=max(now - lease.granted_at, 0.0) if lease.granted_at is not None else 0.0,
            idle=idle,
            in_database=streak.in_database if streak is not None else 0.0,
            elsewhere=streak.elsewhere if streak is not None else 0.0,
            task=(sight.task if sight is not None else None) or task_name(lease.task),
            trace_id=trace_id,
            in_transaction=streak.in_transaction if streak is not None else None,
            details=sight.details if sight is not None else (),
        )
        news = self.findings.note(finding, now)
        if kind is not FindingKind.OVERDUE:  # the caller has noted that one already
            lease.note(kind, is_news=news is not None)
        if news is not None:
            self.tell(self.observers.found, news)

    def overdue(self, lease: Lease, now: float, trace_id: str | None) -> None:
        """Tell that a lease is held for long."""
        streak = _streak_of(lease)
        sight, idle = (streak.sight, streak.idle) if streak is not None else (None, 0.0)
        self.found(lease, streak, FindingKind.OVERDUE, sight, now, idle=idle, trace_id=trace_id)
        self.tell(self.observers.overdue, self.holder(lease, now))

    def lost(self, lease: Lease, now: float, loop: AbstractEventLoop | None) -> None:
        """Count a lease that leaks, and tell it later: the garbage collector calls."""
        streak = _streak_of(lease)
        if streak is None or FindingKind.ORPHANED not in streak.told:
            self.ledger.totals.leaks[LeakKind.GARBAGE_COLLECTED] += 1
        held = max(now - lease.granted_at, 0.0) if lease.granted_at is not None else 0.0
        finding = Finding(
            pool=self.name,
            kind=FindingKind.LEAKED,
            site=site_of(lease.place),
            current=None,
            awaiting=None,
            held=held,
            idle=streak.idle if streak is not None else 0.0,
            in_database=streak.in_database if streak is not None else 0.0,
            elsewhere=streak.elsewhere if streak is not None else 0.0,
            task=task_name(lease.task),
        )
        news = self.findings.note(finding, now)
        if news is not None and self.observers.found:
            self.tell_later(self.observers.found, news, loop)

    def wait(self, lease: Lease, course: Course, now: float) -> Wait:
        """Describe the wait that a lease took."""
        return Wait(self.name, site_of(lease.place), task_name(lease.task), lease.waited, course.queued(now), course.ahead)

    def tell(self, listeners: Listeners, fact: object) -> None:
        """Tell a fact now."""
        self.observers.tell(listeners, fact)

    def tell_later(self, listeners: Listeners, fact: object, loop: AbstractEventLoop | None) -> None:
        """
        Tell a fact as soon as the event loop runs on.

        For the garbage collector's sake: it may call at any instruction, in any thread, while any lock is held,
        and observers write logs and take locks.
        """
        self._late.append((listeners, fact))
        if loop is not None and loop.is_running():
            try:
                loop.call_soon_threadsafe(self.tell_late)
            except RuntimeError:  # closed between the two calls
                self._tell_late()
        else:
            self._tell_late()

    def tell_late(self) -> None:
        """Tell and draw everything that was put off; not for the garbage collector."""
        self._tell_late()
        self.tracing.draw_kept()

    def _tell_late(self) -> None:
        while self._late:
            try:
                listeners, fact = self._late.popleft()
            except IndexError:  # another thread tells them
                return
            self.tell(listeners, fact)

    def forget(self) -> None:
        """Forget what was still to be told, in a forked child: the parent tells it."""
        self._late.clear()
        self.findings.forget()
        self.tracing.forget()
        self.told_of_outage = False
        self._last_look = None

    def snapshot(self, slots: Slots[Any], now: float, *, but: int = 0) -> PoolSnapshot:
        """
        Look at the pool: its own slots, and the leases and totals of all generations.

        Args:
            slots: those of the current generation.
            now: seconds on the pool's clock.
            but: requests that are not to count as waiting: they are just being turned away.
        """
        ledger = self.ledger
        idle, own = len(slots.idle), len(slots.leases())
        holders = tuple(self.holder(lease, now) for lease in ledger.leases())
        waiters = tuple(
            Holder(self.name, site_of(waiter.place), task_name(waiter.task), 0.0, max(now - waiter.since, 0.0))
            for waiter in slots.waiters.live(_WAITERS_SHOWN)
        )
        return PoolSnapshot(
            pool=self.name,
            pool_size=slots.size,
            max_overflow=slots.max_overflow,
            idle=idle,
            used=len(holders),
            connecting=max(slots.taken - idle - own, 0),
            waiting=max(ledger.waiting - but, 0),
            holders=holders,
            waiters=waiters,
            requested=ledger.requested,
            granted=ledger.granted,
            opened=ledger.opened,
            would_reject=ledger.would_reject,
            rejected=MappingProxyType({str(reason): count for reason, count in ledger.rejected.items()}),
            ended=MappingProxyType({str(ending): count for ending, count in ledger.ended.items()}),
            findings=self.findings.listed(),
            waste=self.findings.waste(),
            declared=declarations(),
            downtime=slots.breaker.downtime(now) if slots.breaker.down_since is not None else None,
        )

    def refusal(
        self,
        reason: Reason,
        waited: float,
        slots: Slots[Any],
        now: float,
        sampler: Sampler,
        gap: float,
        proof: tuple[str, ...] = (),
    ) -> CheckoutError:
        """
        Make the error for a request that gets no connection.

        A crowd that is refused together shares one snapshot, while nobody gets or gives back; one that is shed, in any case.

        Args:
            reason: why it gets none.
            waited: seconds it has waited.
            slots: those of the current generation.
            now: seconds on the pool's clock.
            sampler: tells what the holders do.
            gap: seconds between two connections coming back.
            proof: why it would have waited for ever.
        """
        last, moves = self._last_look, (self.ledger.granted, sum(self.ledger.ended.values()))
        if reason is Reason.REJECTED and last is not None:
            moves = last[1]
        if last is None or last[1] != moves or not 0 <= now - last[0] < _LOOK_SHARED:
            blocked, late = sampler.look_now(_get_running_loop(), asks=True)
            snapshot = self.snapshot(slots, now, but=1)
            last = self._last_look = (now, moves, snapshot, judge(snapshot, blocked, late))
        verdict = deadlocked(proof) if proof else last[3]
        retry_after = self._retry.next_turn(now, slots.waiters.about, gap)
        kind = CheckoutRejected if reason in _SHED else CheckoutTimeout
        return kind(reason=reason, waited=waited, retry_after=retry_after, snapshot=last[2], verdict=verdict)

    def unavailable(self, cause: BaseException, waited: float, slots: Slots[Any], now: float, gap: float) -> Exception:
        """Make the error for a request while nothing lives, with the figures as for `refusal`; a cause that a person has to mend as it is."""
        if classify(cause).unchanged:
            return keepsake(cause)  # type: ignore[return-value] # nothing else than an exception is classified so
        moves = (self.ledger.granted, sum(self.ledger.ended.values()))
        last = self._last_look
        if last is None or last[1] != moves or not 0 <= now - last[0] < _LOOK_SHARED:
            last = self._last_look = (now, moves, self.snapshot(slots, now, but=1), None)
        downtime = slots.breaker.downtime(now)
        retry_after = self._retry.next_turn(now, slots.waiters.about, gap, max(slots.breaker.eta(now), downtime.lasted))
        return DatabaseUnavailable(cause=cause, downtime=downtime, waited=waited, retry_after=retry_after, snapshot=last[2])

    def rejection(self, reason: Reason, waited: float, place: Any, task: str | None, error: BaseException) -> Rejection:
        """Describe a request that got nothing."""
        return Rejection(self.name, site_of(place), task, waited, reason, error)


def _streak_of(lease: Lease) -> Streak | None:
    """Give what samples have shown of a lease; None if it was not looked at."""
    streak = lease.streak
    return streak if streak is not None and streak.granted_at == lease.granted_at else None
