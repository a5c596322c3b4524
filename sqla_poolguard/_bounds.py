"""How many connections a pool may have and keep, and how it comes down to fewer. It knows numbers only; the slots ask it."""

from __future__ import annotations

import math

__all__ = ["Bounds"]


class Bounds:
    """
    The bounds of one pool's slots. They can be changed at any time.

    Slots that are taken when there are to be fewer stay taken until their connections are closed, which happens when they are
    idle or come back: never is one taken anew above `limit`. So the law is

        taken <= most        where `most` is `limit`, or what was taken when that fell, less what was closed since
    """

    __slots__ = ("keep", "leaving", "limit", "max_overflow", "most", "retired", "size", "taken")

    def __init__(self, size: int, max_overflow: int) -> None:
        self.taken = 0
        """Slots taken."""
        self.leaving = 0
        """Of them, those whose connections are being closed, since there were too many."""
        self.retired = False
        self.bound(size, max_overflow)

    def bound(self, size: int, max_overflow: int) -> None:
        """
        Set the bounds.

        Args:
            size: connections to keep when idle; 0 means no limit at all.
            max_overflow: connections allowed above that; below 0 means no limit.
        """
        self.size = size
        self.max_overflow = -1 if size == 0 else max_overflow
        self.limit: float = math.inf if size == 0 or max_overflow < 0 else size + max_overflow
        self.measure()

    def measure(self) -> None:
        """Set what depends on how many slots are taken: to be called when the bounds change, and when a slot above them gets free."""
        self.most: float = max(self.limit, self.taken)
        self.keep: float = 0 if self.retired or self.taken > self.limit else self.size or math.inf
        """Idle connections from which on to ask which of them are to be closed."""

    def retire(self) -> None:
        """Keep nothing from now on: what comes back is surplus."""
        self.retired = True
        self.measure()

    @property
    def is_shrinking(self) -> bool:
        """Whether more slots are taken than may be."""
        return self.taken > self.limit

    def is_surplus(self, idle: int) -> bool:
        """Tell whether one of so many idle connections is to be closed."""
        if self.taken - self.leaving > self.limit:
            return idle > 0
        return idle > (0 if self.retired else self.size or math.inf)

    def may_serve(self, idle: int) -> bool:
        """Tell whether one of so many idle connections may be given to a waiter; above the limit it is closed instead."""
        return idle > 0 and (self.taken <= self.limit or self.taken - self.leaving - idle < self.limit)
