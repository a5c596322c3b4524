"""The queue of one pool: who waits, in which order, until when. It reads no clock and makes no loop; futures are handed to it."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import weakref
    from asyncio import Future, Task

    from sqla_poolguard._callsite import Place

__all__ = ["Waiter", "Waiters"]

_PURGE_ABOVE = 32


class Waiter:
    """One caller in the queue."""

    __slots__ = ("ahead", "deadline", "future", "gone", "place", "queued", "since", "task")

    def __init__(
        self,
        future: Future[Any],
        since: float,
        deadline: float,
        task: weakref.ref[Task[Any]] | None = None,
        place: Place | None = None,
    ) -> None:
        self.future = future
        """Done when the wait is over, one way or another."""
        self.since = since
        """When it came, on the pool's clock."""
        self.deadline = deadline
        """Until when it may wait, on the pool's clock; infinity for ever."""
        self.task = task
        self.place = place
        self.ahead = 0
        """How many waited when it came."""
        self.queued = False
        """Whether it is in the queue, dead or alive."""
        self.gone = False
        """Whether it is counted as dead there."""


class Waiters:
    """
    Waiters in the order in which they came.

    Deadlines never decrease along the queue (all waiters of a pool wait equally long),
    so that one timer, set for the first, serves all.
    A waiter that gave up stays where it is, done, until it is passed over or swept out.
    """

    __slots__ = ("_gone", "queue")

    def __init__(self) -> None:
        self.queue: deque[Waiter] = deque()
        """Live and dead ones; empty means that nobody waits (tested on the hot path)."""
        self._gone = 0

    def __len__(self) -> int:
        return sum(not waiter.future.done() for waiter in self.queue.copy())

    def __repr__(self) -> str:
        return f"<Waiters {len(self)} live, {len(self.queue)} queued>"

    def append(self, waiter: Waiter) -> None:
        """Put a waiter at the end."""
        ahead = len(self.queue) - self._gone
        waiter.ahead = max(0, ahead)
        waiter.queued = True
        self.queue.append(waiter)

    def pop(self) -> Waiter | None:
        """Take the first live waiter out of the queue."""
        while self.queue:
            try:
                waiter = self.queue.popleft()
            except IndexError:  # another thread took it
                return None
            waiter.queued = False
            if waiter.gone:
                self._out(waiter)
            if not waiter.future.done():
                return waiter
        return None

    def put_back(self, waiter: Waiter) -> None:
        """Put a waiter that was popped in vain back to the front."""
        waiter.queued = True
        self.queue.appendleft(waiter)

    def gave_up(self, waiter: Waiter) -> None:
        """
        Note that a waiter left by itself; sweep when most of the queue is dead.

        While it sweeps, a waiter may be out of the queue for a moment: whoever calls must match again afterwards.
        """
        if not waiter.queued:
            return
        waiter.gone = True
        self._gone += 1
        if self._gone > _PURGE_ABOVE and self._gone * 2 > len(self.queue):
            for _ in range(len(self.queue)):
                try:
                    first = self.queue.popleft()
                except IndexError:  # another thread took it
                    return
                if first.future.done():
                    self._out(first)
                else:
                    self.queue.append(first)

    def first(self) -> Waiter | None:
        """Look at the first live waiter, and drop the dead ones before it."""
        while self.queue:
            waiter = self.queue[0]
            if not waiter.future.done():
                return waiter
            self.remove(waiter)
        return None

    def expired(self, now: float) -> list[Waiter]:
        """Take out every live waiter whose deadline has passed, the oldest first."""
        out = []
        while (waiter := self.first()) is not None and waiter.deadline <= now:
            if self.remove(waiter):
                out.append(waiter)
        return out

    def next_deadline(self) -> float:
        """When the first live waiter's deadline passes; infinity if nobody waits."""
        waiter = self.first()
        return math.inf if waiter is None else waiter.deadline

    def remove(self, waiter: Waiter) -> bool:
        """Take a waiter out; False if the garbage collector, or another thread, has just handed it something."""
        try:
            self.queue.remove(waiter)
        except ValueError:
            return False
        self._out(waiter)
        return True

    def _out(self, waiter: Waiter) -> None:
        waiter.queued = False
        if waiter.gone:
            waiter.gone = False
            self._gone -= 1

    def live(self, most: int) -> list[Waiter]:
        """Look at the first live waiters, at most so many."""
        out: list[Waiter] = []
        for waiter in self.queue.copy():
            if len(out) >= most:
                break
            if not waiter.future.done():
                out.append(waiter)
        return out
