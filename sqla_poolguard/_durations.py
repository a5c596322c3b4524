"""Durations, counted in buckets: how often, how long in all, and how they spread. It keeps no sample and takes no lock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SECONDS_BUCKETS", "Durations"]

SECONDS_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""
Bucket boundaries in seconds; each belongs to the bucket below it.

OpenTelemetry's conventions advise them for `db.client.operation.duration`, and none for the pool's own histograms.
"""


class Durations:
    """A histogram of seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.forget()

    def __repr__(self) -> str:
        return f"<Durations {self.count} in {self.total:.6g} s>"

    def forget(self) -> None:
        """Begin anew."""
        self.counts = [0] * (len(SECONDS_BUCKETS) + 1)
        """How many are in each bucket; the last one is that of all above the boundaries."""
        self.total = 0.0

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """Count one; each counter changes in one step of the interpreter, so that no other thread's is lost."""
        bucket = bisect_left(SECONDS_BUCKETS, seconds)
        self.counts[bucket] += 1
        self.total += seconds

    def add_all(self, many: Sequence[float]) -> None:
        """Count many, at a fifth of the price; nobody else may count meanwhile."""
        ordered = sorted(many)
        below = 0
        for bucket, boundary in enumerate(SECONDS_BUCKETS):
            up_to = bisect_right(ordered, boundary, below)
            self.counts[bucket] += up_to - below
            below = up_to
        self.counts[-1] += len(ordered) - below
        self.total += sum(ordered)

    def absorb(self, other: Durations) -> None:
        """Count what another one has counted."""
        for bucket, count in enumerate(other.counts):
            self.counts[bucket] += count
        self.total += other.total
