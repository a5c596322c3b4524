"""A line before so many connections, played through: for holds and bursts of which no formula tells the waits."""

from __future__ import annotations

import random
from heapq import heapreplace
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqla_poolguard._durations import Durations

__all__ = ["Day", "waits"]

_WARMUP: Final = 0.1
"""The part of a day that is not looked at: it begins with everything free."""


def waits(requests: Iterable[tuple[float, float]], servers: int) -> Iterator[float]:
    """
    Give the seconds that each request waits, first come, first served.

    Source: J. Kiefer and J. Wolfowitz, "On the theory of queues with many servers", 1955: who comes takes the connection that is free
    first. This is what `GuardedPool` does without overflow, priorities and refusals (`tests/sizing` compares them wait by wait).

    Args:
        requests: (second at which it comes, seconds that it holds), in order of coming.
        servers: connections.
    """
    free = [0.0] * servers
    for at, hold in requests:
        begun = max(at, free[0])
        heapreplace(free, begun + hold)
        yield begun - at


class Day:
    """What happens on one day: who comes when, and holds for how long. Drawn once, and played with more or fewer connections."""

    def __init__(self, rate: float, holds: Durations, *, burst: int = 1, requests: int = 100_000, seed: int = 1) -> None:
        """
        Draw it; the same arguments give the same day.

        Args:
            rate: requests per second.
            holds: of the connections.
            burst: how many come at once; bursts come by chance (Poisson).
            requests: how many come in all.
            seed: of what is drawn.
        """
        dice = random.Random(seed)  # noqa: S311 - chance, not secrecy
        bursts = -(-requests // burst)
        comes = list(accumulate(dice.expovariate(1.0) for _ in range(bursts)))
        held = [holds.draw(dice) for _ in range(bursts * burst)]
        # the load of the day is exactly the one that is asked about: a day that happens to be busier tells less of it
        pace, stretch = len(held) / rate / comes[-1], holds.mean * len(held) / sum(held)
        self._requests = [(comes[number // burst] * pace, hold * stretch) for number, hold in enumerate(held)]
        self._seen = len(self._requests) - int(len(self._requests) * _WARMUP)

    def above(self, seconds: float, servers: int, *, faster: float = 1.0) -> float:
        """
        Give the share of the requests that wait for longer than some seconds.

        Args:
            seconds: 0 for "at all".
            servers: connections.
            faster: how many times shorter the holds are than those that were drawn.
        """
        requests: Iterable[tuple[float, float]] = self._requests
        if faster != 1.0:
            requests = ((at, hold / faster) for at, hold in self._requests)
        warmup = len(self._requests) - self._seen
        late = 0
        for number, wait in enumerate(waits(requests, servers)):
            if wait > seconds and number >= warmup:
                late += 1
        return late / self._seen
