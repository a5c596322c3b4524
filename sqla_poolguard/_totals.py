"""What a pool has counted in its whole life. It outlives the books, and an engine that was collected has counted all the same."""

from __future__ import annotations

from sqla_poolguard._durations import Durations
from sqla_poolguard._facts import Ending, Reason

__all__ = ["Totals"]


class Totals:
    """The counters of one engine's pool; they only grow."""

    __slots__ = ("create_times", "ended", "rejected", "would_reject")

    def __init__(self) -> None:
        self.rejected = dict.fromkeys(Reason, 0)
        self.ended = dict.fromkeys(Ending, 0)
        self.would_reject = 0
        """Requests that `fail_fast=True` would have turned away."""
        self.create_times = Durations()
        """Connecting."""

    def __repr__(self) -> str:
        return f"<Totals rejected {sum(self.rejected.values())}, ended {sum(self.ended.values())}>"

    def forget(self) -> None:
        """Begin anew, in a forked child; whoever holds one of the parts sees that."""
        self.rejected.update(dict.fromkeys(Reason, 0))
        self.ended.update(dict.fromkeys(Ending, 0))
        self.would_reject = 0
        self.create_times.forget()

    def absorb(self, other: Totals) -> None:
        """Count what another one has counted."""
        for reason, count in other.rejected.items():
            self.rejected[reason] += count
        for ending, count in other.ended.items():
            self.ended[ending] += count
        self.would_reject += other.would_reject
        self.create_times.absorb(other.create_times)
