"""The queue of one pool: who waits, in which order, until when. It reads no clock and makes no loop; futures are handed to it."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from sqla_poolguard._overload import Priority

if TYPE_CHECKING:
    import weakref
    from asyncio import Future, Task

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._course import Giver

__all__ = ["Waiter", "Waiters"]

_PURGE_ABOVE = 32
_NORMAL = Priority.NORMAL


class Waiter:
    """One caller in the queue."""

    __slots__ = ("ahead", "deadline", "future", "giver", "gone", "level", "place", "queued", "since", "spot", "task")

    def __init__(
        self,
        future: Future[Any],
        since: float,
        deadline: float,
        task: weakref.ref[Task[Any]] | None = None,
        place: Place | None = None,
        level: Priority = _NORMAL,
        spot: Any = None,
    ) -> None:
        self.future = future
        """Done when the wait is over, one way or another."""
        self.since = since
        """When it came, on the pool's clock."""
        self.deadline = deadline
        """Until when it may wait, on the pool's clock; infinity for ever."""
        self.task = task
        self.place = place
        self.level = level
        self.spot = spot
        """Where in a trace it waits, if that is recorded."""
        self.giver: Giver | None = None
        """Who gave what ended its wait."""
        self.ahead = 0
        """How many waited when it came."""
        self.queued = False
        """Whether it is in its line, dead or alive."""
        self.gone = False
        """Whether it is counted as dead there."""


class Waiters:
    """
    Waiters in three lines, one for each priority; in each the order is that in which they came.

    Most deadlines never decrease along a line, since all waiters of a pool may wait equally long:
    the first of each line, and a heap of the exceptions, tell what is due next.
    A waiter that gave up stays where it is, done, until it is passed over or swept out.
    """

    __slots__ = ("_early", "_normal", "_numbers", "gone", "latest", "lines", "queued")

    def __init__(self) -> None:
        self.lines: tuple[deque[Waiter], ...] = tuple(deque() for _ in Priority)
        """Live and dead ones, the most important line first."""
        self._normal = self.lines[_NORMAL]
        self.queued: deque[None] = deque()
        """A token for each of them; empty means that nobody waits (tested on the hot path). A deque, for its steps cannot be interrupted."""
        self.gone = 0
        """How many of them are known to be dead."""
        self._early: list[tuple[float, int, Waiter]] = []
        """(deadline, number, waiter) of those that may be due before one that came earlier: a heap."""
        self.latest = -math.inf
        """The latest deadline so far; a waiter that is due before that is early."""
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return sum(not waiter.future.done() for line in self.lines for waiter in line.copy())

    def __repr__(self) -> str:
        return f"<Waiters {len(self)} live, {len(self.queued)} queued>"

    @property
    def about(self) -> int:
        """How many wait, without those that are known to be dead; without looking at each."""
        gone = self.gone
        return max(len(self.queued) - gone, 0) if gone else len(self.queued)

    def append(self, waiter: Waiter) -> None:
        """Put a waiter at the end of its line; one that is early, under the lock of the slots."""
        waiter.ahead = self.about if self.gone else len(self.queued)
        waiter.queued = True
        if waiter.deadline < self.latest:
            heapq.heappush(self._early, (waiter.deadline, next(self._numbers), waiter))
        else:
            self.latest = waiter.deadline
        # the line first: whoever sees the token finds the waiter
        (self._normal if waiter.level is _NORMAL else self.lines[waiter.level]).append(waiter)
        self.queued.append(None)

    def pop(self) -> Waiter | None:
        """Take the first live waiter out of the queue."""
        for line in self.lines:
            while line:
                try:
                    waiter = line.popleft()
                except IndexError:  # another thread took it
                    break
                self._out(waiter)
                if not waiter.future.done():
                    return waiter
        return None

    def put_back(self, waiter: Waiter) -> None:
        """Put a waiter that was popped in vain back to the front of its line."""
        waiter.queued = True
        self.lines[waiter.level].appendleft(waiter)
        self.queued.append(None)

    def gave_up(self, waiter: Waiter) -> None:
        """
        Note that a waiter left by itself; sweep when most of the queue is dead.

        While it sweeps, a waiter may be out of the queue for a moment: whoever calls must match again afterwards.
        """
        if not waiter.queued:
            return
        waiter.gone = True
        self.gone += 1
        if self.gone > _PURGE_ABOVE and self.gone * 2 > len(self.queued):
            for line in self.lines:
                self._sweep(line)
            self._early = [entry for entry in self._early if entry[2].queued]
            heapq.heapify(self._early)

    def _sweep(self, line: deque[Waiter]) -> None:
        for _ in range(len(line)):
            try:
                first = line.popleft()
            except IndexError:  # another thread took it
                return
            if first.future.done():
                self._out(first)
            else:
                line.append(first)

    def first(self, line: deque[Waiter]) -> Waiter | None:
        """Look at the first live waiter of a line, and drop the dead ones before it."""
        while line:
            try:
                waiter = line[0]
            except IndexError:  # another thread took it
                return None
            if not waiter.future.done():
                return waiter
            self.remove(waiter)
        return None

    def oldest(self, least: Priority) -> Waiter | None:
        """Give the one to turn away first: the oldest of the least important, at most as important as `least`; None if there is none."""
        for line in reversed(self.lines[least:]):
            waiter = self.first(line)
            if waiter is not None:
                return waiter
        return None

    def ahead_of(self, level: Priority) -> int:
        """How many would be served before one that came now, without looking at each."""
        return len(self.lines[0]) if level is Priority.CRITICAL else self.about

    def expired(self, now: float) -> list[Waiter]:
        """Take out every live waiter whose deadline has passed, the oldest of each line first."""
        out = []
        for line in self.lines:
            while (waiter := self.first(line)) is not None and waiter.deadline <= now:
                if self.remove(waiter):
                    out.append(waiter)
        while self._early and self._early[0][0] <= now:
            waiter = heapq.heappop(self._early)[2]
            if waiter.queued and not waiter.future.done() and self.remove(waiter):
                out.append(waiter)
        return out

    def older(self, since: float) -> list[Waiter]:
        """Take out every live waiter at the head of its line that has waited since then, or for longer."""
        out = []
        for line in self.lines:
            while (waiter := self.first(line)) is not None and waiter.since <= since:
                if self.remove(waiter):
                    out.append(waiter)
        return out

    def oldest_since(self) -> float:
        """Since when the first live waiters of the lines have waited; infinity if nobody waits."""
        return min((first.since for line in self.lines if (first := self.first(line)) is not None), default=math.inf)

    def next_deadline(self) -> float:
        """When the first live waiter's deadline passes; infinity if nobody waits."""
        early = self._early
        while early and not (early[0][2].queued and not early[0][2].future.done()):
            heapq.heappop(early)
        firsts = [first.deadline for line in self.lines if (first := self.first(line)) is not None]
        return min([*firsts, *(entry[0] for entry in early[:1])], default=math.inf)

    def remove(self, waiter: Waiter) -> bool:
        """Take a waiter out; False if the garbage collector, or another thread, has just handed it something."""
        try:
            self.lines[waiter.level].remove(waiter)
        except ValueError:
            return False
        self._out(waiter)
        return True

    def _out(self, waiter: Waiter) -> None:
        waiter.queued = False
        try:  # noqa: SIM105 - for speed
            self.queued.popleft()
        except IndexError:  # another thread is just putting one in: the waiter is there, its token not yet
            pass
        if waiter.gone:
            waiter.gone = False
            self.gone -= 1

    def live(self, most: int) -> list[Waiter]:
        """Look at the first live waiters, in the order in which they will be served, at most so many."""
        return list(itertools.islice((waiter for line in self.lines for waiter in line.copy() if not waiter.future.done()), most))

    def tasks(self, most: int) -> list[tuple[Task[Any], Waiter]]:
        """Look at them together with their tasks, as far as these are known. There may be many, so it calls little."""
        return [(task, waiter) for waiter in self.live(most) if waiter.task is not None and (task := waiter.task()) is not None]
