"""What a pool has counted in its whole life. It outlives the books: an engine that was collected has counted all the same."""

from __future__ import annotations

from sqla_poolguard._durations import Durations
from sqla_poolguard._facts import Reason
from sqla_poolguard._finding import LeakKind

__all__ = ["Totals"]


class Totals:
    """What is counted for exporters and only grows: they may keep it, and tell what a collected engine has left behind."""

    __slots__ = ("create_times", "foreign_await", "leaks", "rejected", "spans_suppressed", "would_reject")

    def __init__(self) -> None:
        self.rejected = dict.fromkeys(Reason, 0)
        """Requests that got no connection."""
        self.leaks = dict.fromkeys(LeakKind, 0)
        """Leases that were not given back; each is counted once, when that is noticed."""
        self.would_reject = 0
        """Requests that `fail_fast=True` would have turned away."""
        self.foreign_await: float | None = None
        """Connection-seconds for which holders awaited something else than the database; sampled; None if nobody could look yet."""
        self.spans_suppressed = 0
        """Spans, and events on others' spans, that were not drawn since their line had its share."""
        self.create_times = Durations()
        """How long it took to connect."""

    def __repr__(self) -> str:
        return f"<Totals rejected {sum(self.rejected.values())}, leaks {sum(self.leaks.values())}, {self.create_times!r}>"

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        self.rejected.update(dict.fromkeys(Reason, 0))
        self.leaks.update(dict.fromkeys(LeakKind, 0))
        self.would_reject = 0
        self.foreign_await = None
        self.spans_suppressed = 0
        self.create_times.forget()

    def absorb(self, other: Totals) -> None:
        """Count what another one has counted."""
        for reason, count in other.rejected.items():
            self.rejected[reason] += count
        for kind, count in other.leaks.items():
            self.leaks[kind] += count
        self.would_reject += other.would_reject
        self.spans_suppressed += other.spans_suppressed
        if other.foreign_await is not None:
            self.foreign_await = (self.foreign_await or 0.0) + other.foreign_await
        self.create_times.absorb(other.create_times)
