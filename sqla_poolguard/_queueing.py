"""A line before so many connections, played through: for holds and bursts of which no formula tells the waits."""

from __future__ import annotations

import math
import random
from array import array
from heapq import heapreplace
from itertools import accumulate
from statistics import stdev
from typing import TYPE_CHECKING, Final, NamedTuple

from sqla_poolguard._hold_times import Exponential

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqla_poolguard._hold_times import HoldTimes

__all__ = ["Day", "Line", "Share", "Traffic", "waits"]

_PARTS: Final = 16
"""Of a day, and of all days together when it is asked how far their parts differ."""
_WARMUP: Final = 2
"""Parts of the first day that are not looked at: it begins with everything free."""
_FAR: Final = 3.0
"""Standard errors to both sides within which the truth is in 99 of 100 cases: Student's t, for the 14 parts or 15 there are."""


def waits(requests: Iterable[tuple[float, float]], servers: int, free: list[float] | None = None) -> Iterator[float]:
    """
    Give the seconds that each request waits, first come, first served.

    Source: J. Kiefer and J. Wolfowitz, "On the theory of queues with many servers", 1955: who comes takes the connection that is free
    first. This is what `GuardedPool` does without overflow, priorities and refusals (`tests/sizing` compares them wait by wait).

    Args:
        requests: (second at which it comes, seconds that it holds), in order of coming.
        servers: connections.
        free: when each of them is free, a heap, which is changed; default: all of them from the beginning.
    """
    free = [0.0] * servers if free is None else free
    for at, hold in requests:
        first = free[0]
        if at > first:
            heapreplace(free, at + hold)
            yield 0.0
        else:
            heapreplace(free, first + hold)
            yield first - at


class Day(NamedTuple):
    """Requests that were drawn: one comes in a unit of time, and holds for a unit of time, on average; on even days exactly so."""

    comes: array[float]
    held: array[float]


class Traffic:
    """
    Who comes when, and holds for how long: drawn day by day, whatever the load is. Bursts come by chance (Poisson).

    On even days the load is exactly the one that is asked about: a day that happens to be busier tells less of it. That is right only where a
    queue forms and goes many times a day; a long one is made by just those busier days, and is seen on days as chance gives them.
    """

    def __init__(self, holds: HoldTimes, *, burst: int = 1, seed: int = 1) -> None:
        """
        Prepare to draw; the same arguments give the same days.

        Args:
            holds: of the connections; only their shape matters.
            burst: how many come at once.
            seed: of what is drawn.
        """
        self._holds, self._burst, self._seed = holds, burst, seed
        self._days: dict[tuple[int, int, bool], Day] = {}

    def day(self, number: int, requests: int, *, even: bool = True) -> Day:
        """Give one of the days on which so many requests come, or a burst more."""
        key = (number, requests, even)
        if key not in self._days:
            self._days[key] = self._draw(random.Random(f"{self._seed} {number}"), requests, even=even)  # noqa: S311 - chance, not secrecy
        return self._days[key]

    def _draw(self, dice: random.Random, requests: int, *, even: bool) -> Day:
        bursts, burst = -(-requests // self._burst), self._burst
        comes = list(accumulate(Exponential(1.0).draws(dice, bursts)))
        held = self._holds.draws(dice, bursts * burst)
        pace, stretch = (len(held) / comes[-1], len(held) / math.fsum(held)) if even else (float(burst), 1 / self._holds.mean)
        paced = [at * pace for at in comes] if burst == 1 else [at * pace for at in comes for _ in range(burst)]
        return Day(array("d", paced), array("d", [hold * stretch for hold in held]))


class Share(NamedTuple):
    """A part of the requests, as far as it is known: the truth is between the ends, 99 times of 100."""

    seen: float
    low: float
    high: float


class Line:
    """Requests before so many connections, played on for as many days as are needed. All times are in mean holds."""

    def __init__(
        self,
        traffic: Traffic,
        erlangs: float,
        servers: int,
        patience: float,
        requests: int,
        *,
        even: bool = True,
        warmup: float = 0.0,
    ) -> None:
        """
        Begin with everything free.

        Args:
            traffic: who comes, and holds.
            erlangs: connections that are held on average.
            servers: those there are.
            patience: the wait that is tolerated.
            requests: of a day.
            even: whether each day's load is exactly that.
            warmup: what is not looked at, at the least, since it begins with everything free.
        """
        self._even, self._warmup = even, warmup
        self._traffic, self._erlangs, self._patience, self._requests = traffic, erlangs, patience, requests
        self._servers, self._free = servers, [0.0] * servers
        self._late: list[int] = []
        self._days, self._now, self._part = 0, 0.0, 1

    def play(self, days: int) -> None:
        """Play on until so many days are over."""
        while self._days < days:
            comes, held = self._traffic.day(self._days, self._requests, even=self._even)
            per, begun, tolerated = 1 / self._erlangs, self._now, self._patience
            self._part = len(held) // _PARTS
            for start in range(0, self._part * _PARTS, self._part):
                end = start + self._part
                requests = zip([begun + at * per for at in comes[start:end]], held[start:end], strict=True)
                self._late.append(sum(map(tolerated.__lt__, waits(requests, self._servers, self._free))))
            self._now = begun + comes[-1] * per
            self._days += 1

    @property
    def lasted(self) -> float:
        """Give how long was played, in mean holds."""
        return self._now

    def share(self) -> Share:
        """Give the share of the requests that waited for too long."""
        warmup = max(_WARMUP, math.ceil(self._warmup * self._erlangs / self._part))
        late = self._late[min(warmup, len(self._late) // 2) :]
        number, days = len(late) * self._part, max(len(late) // (_PARTS - 1), 1)
        each = [sum(late[end - days : end]) / self._part / days for end in range(len(late), days - 1, -days)]
        seen = sum(late) / number
        # the parts of all days together; and where nearly nobody waits, at least what chance alone would do
        far = _FAR * max(stdev(each) / math.sqrt(len(each)), math.sqrt(sum(late) + 1) / number)
        return Share(seen, max(seen - far, 0.0), min(seen + far, 1.0))
