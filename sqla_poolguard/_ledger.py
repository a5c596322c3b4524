"""The books of one engine's pool: who asked, who holds, how each ended. It knows no SQLAlchemy, loop, clock or log."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from sqla_poolguard._facts import Ending
from sqla_poolguard._samples import SAMPLES_KEPT, Samples
from sqla_poolguard._totals import Totals

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Iterable

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._course import Course
    from sqla_poolguard._facts import Reason
    from sqla_poolguard._finding import FindingKind
    from sqla_poolguard._samples import Sample
    from sqla_poolguard._slots import Slots
    from sqla_poolguard._streak import Streak
    from sqla_poolguard._waiters import Waiter

__all__ = ["SAMPLES_KEPT", "Lease", "Ledger"]

_LOOKS = 3
_HELD = "bug: granted a lease that somebody holds"


class Lease:
    """
    One connection in one caller's hands.

    It lives on the connection record and is used again for each checkout of it, so that a checkout allocates nothing.
    The task is a weak reference: a strong one would keep its frames alive, and with them the connection that it leaks.
    """

    __slots__ = ("course", "ending", "granted_at", "idle_since", "notes", "place", "spot", "streak", "task", "waited", "waiter")

    def __init__(self) -> None:
        self.granted_at: float | None = None
        """When it was granted, on the pool's clock; None while nobody holds the connection."""
        self.waited = 0.0
        """Seconds its holder had waited for it."""
        self.task: weakref.ref[Task[Any]] | None = None
        self.place: Place | None = None
        self.ending: Ending | None = None
        """How it is going to end, where an event has told so already."""
        self.notes: tuple[tuple[FindingKind, bool], ...] = ()
        """What was found of it, and whether that was news and is reported."""
        self.streak: Streak | None = None
        """What samples have shown of it, or of an earlier lease: that is told by `granted_at`."""
        self.idle_since = 0.0
        """When it last ended, on the pool's clock."""
        self.spot: tuple[float, Any] | None = None
        """(when it was granted, where in a trace its holder had waited for it), of this lease or of an earlier one; see `Tracing`."""
        self.course: Course | None = None
        """How it came to be, if the connection was not there at once, as far as that is noted by now."""
        self.waiter: Waiter | None = None
        """Who has just got it in the queue, and nothing is noted of that yet."""

    @property
    def found(self) -> tuple[FindingKind, ...]:
        """What was found of it, each once."""
        return tuple(dict.fromkeys(kind for kind, _ in self.notes))

    @property
    def reported(self) -> tuple[FindingKind, ...]:
        """What was reported of it, each once."""
        return tuple(kind for kind, is_news in self.notes if is_news)

    def note(self, kind: FindingKind, *, is_news: bool) -> None:
        """Note that something was found of it."""
        if (kind, is_news) not in self.notes:
            self.notes += ((kind, is_news),)


class Ledger:
    """
    The books of one engine's pool, carried on from pool to pool when the engine is disposed of.

    Two laws hold between any two calls; `check()` raises if not:

        requested == waiting + granted + rejected
        granted   == leased  + ended

    and each pool's slots keep theirs.
    """

    def __init__(self) -> None:
        self.requested = 0
        self.waiting = 0
        self.granted = 0
        self.totals = Totals()
        """What goes on counting when these books are gone."""
        self.rejected = self.totals.rejected
        self.ended = dict.fromkeys(Ending, 0)
        self.opened = 0
        """Physical connections opened."""
        self.closed = 0
        """Physical connections closed by the pool."""
        self.departed = 0
        """Physical connections that left the pool open: detached, or leaked and then terminated."""
        self.samples: deque[Sample] = deque()
        """(wait time, use time) of each ended lease, in seconds, until an exporter takes it."""
        self.dealt = Samples(self.samples)
        """Where exporters get them."""
        self.spill: Callable[[deque[Sample]], object] = self.dealt.spill
        """Takes one sample out when there are too many; an exporter records it, else it is forgotten."""
        self.listeners: Callable[[], Iterable[object]] = tuple
        """Gives who is told of every checkout beside us: an exporter looks whether one of them measures the same."""
        self._pools: weakref.WeakSet[Slots[Any]] = weakref.WeakSet()

    def __repr__(self) -> str:
        return (
            f"<Ledger requested {self.requested} = waiting {self.waiting} + granted {self.granted}"
            f" + rejected {sum(self.rejected.values())}; ended {sum(self.ended.values())}>"
        )

    @property
    def would_reject(self) -> int:
        """Requests that `fail_fast=True` would have turned away."""
        return self.totals.would_reject

    def open_pool(self, slots: Slots[Any]) -> None:
        """Keep the books of these slots too."""
        self._pools.add(slots)

    def pools(self) -> list[Slots[Any]]:
        """Give the slots of every pool that still lives, retired ones included."""
        while True:
            try:
                return list(self._pools)
            except RuntimeError:  # another thread opened one meanwhile
                continue

    def ask(self) -> None:
        """Note a request."""
        self.requested += 1
        self.waiting += 1

    def grant(self, lease: Lease, now: float, waited: float) -> None:
        """Note that a request got its connection. The counters follow without a call in between: an interrupt comes with a call."""
        if lease.granted_at is not None:
            raise AssertionError(_HELD)
        lease.waited = waited
        lease.ending = None
        lease.granted_at = now
        self.waiting -= 1
        self.granted += 1
        if len(self.samples) > SAMPLES_KEPT:  # here, not where a lease ends: the end may be the garbage collector's
            self.spill(self.samples)

    def grant_at_once(self, lease: Lease, now: float) -> None:
        """Note a request and, in the same moment, that it got its connection. As `grant`, without the call."""
        if lease.granted_at is not None:
            raise AssertionError(_HELD)
        lease.waited = 0.0
        lease.ending = None
        lease.granted_at = now
        self.requested += 1
        self.granted += 1
        if len(self.samples) > SAMPLES_KEPT:
            self.spill(self.samples)

    def connected(self, seconds: float) -> None:
        """Note that a physical connection was opened, and how long it took."""
        self.opened += 1
        self.totals.create_times.add(seconds)

    def reject(self, reason: Reason) -> None:
        """Note that a request gets no connection."""
        self.waiting -= 1
        self.rejected[reason] += 1

    def end(self, lease: Lease, now: float, ending: Ending) -> None:
        """Note that a lease ended."""
        granted_at = lease.granted_at
        if granted_at is None:
            msg = "bug: ended a lease that nobody holds"
            raise AssertionError(msg)
        lease.granted_at = lease.task = lease.place = None
        lease.notes = ()
        lease.idle_since = now
        self.ended[ending] += 1
        self.samples.append((lease.waited, now - granted_at))

    def forget(self) -> None:
        """Begin anew, in a forked child: what was written here is the parent's."""
        self.requested = self.waiting = self.granted = self.opened = self.closed = self.departed = 0
        self.totals.forget()
        self.ended = dict.fromkeys(Ending, 0)
        self.samples.clear()

    def leases(self) -> list[Lease]:
        """Look at every lease that is out, the oldest first."""
        found = [lease for slots in self.pools() for lease in slots.leases()]
        return sorted(found, key=lambda lease: lease.granted_at or 0.0)

    def check(self) -> None:
        """
        Compare the books with the laws, those of every pool's slots included.

        It looks again before it complains: the garbage collector or another thread may act between two figures.

        Raises:
            AssertionError: a law does not hold; the message shows the figures.
        """
        broken = None
        for _ in range(_LOOKS):
            broken = self._broken_law()
            if broken is None:
                return
        raise AssertionError(broken)

    def _broken_law(self) -> str | None:
        rejected, ended, leased = sum(self.rejected.values()), sum(self.ended.values()), len(self.leases())
        requested, waiting, granted = self.requested, self.waiting, self.granted
        if min(requested, waiting, granted, *self.rejected.values(), *self.ended.values()) < 0:
            return f"law broken: a count is below 0: {self!r}"
        if requested != waiting + granted + rejected:
            return f"law broken: requested {requested} == waiting {waiting} + granted {granted} + rejected {rejected}"
        if granted != leased + ended:
            return f"law broken: granted {granted} == leased {leased} + ended {ended}"
        return next((broken for slots in self.pools() if (broken := slots.broken_law()) is not None), None)
