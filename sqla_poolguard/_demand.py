"""How many connections a load needs: by Erlang's formula where it holds, and where it does not by playing the load through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqla_poolguard._durations import Exponential
from sqla_poolguard._erlang import least_servers, wait_above
from sqla_poolguard._queueing import Day

if TYPE_CHECKING:
    from sqla_poolguard._durations import Durations

__all__ = ["Demand"]

_FEWEST, _MOST = 100_000, 2_000_000
"""Requests of a day that is played."""
_LATE: Final = 1000
"""Of them, those that should wait for too long, so that their share is known well enough."""
_FILLINGS: Final = 5000
"""How many times everything that is held at one moment is to come, since they come and go together: rare waits are known as well as this is large."""
_STEPS: Final = 12


class Demand:
    """What one queue of requests needs so that at most a given share of them waits for longer than a given time."""

    def __init__(self, rate: float, holds: Durations, *, burst: int = 1, wait: float = 0.05, share: float = 0.01) -> None:
        """
        Take what is asked.

        Args:
            rate: checkouts per second.
            holds: of the connections.
            burst: checkouts that come at once.
            wait: seconds that are tolerated.
            share: of the checkouts that may wait for longer.
        """
        self.holds = holds
        self.erlangs = rate * holds.mean
        """Mean number of connections held: Little's law, L = lambda W, with W the time that a connection is *held*. Source: J. D. C.
        Little, "A proof for the queuing formula: L = lambda W", 1961."""
        self.simulated = burst > 1 or not isinstance(holds, Exponential)
        self._rate, self._burst, self._wait, self._share = rate, burst, wait, share
        self._day: Day | None = None
        self._seen: dict[int, float] = {}

    def share(self, size: int) -> float:
        """Give the share of the checkouts that wait for too long with so many connections; 1 where they cannot keep up."""
        if size <= self.erlangs:
            return 1.0
        if not self.simulated:
            return wait_above(self._wait, size, self.erlangs, self.holds.mean)
        if size not in self._seen:
            self._seen[size] = self._played().above(self._wait, size)
        return self._seen[size]

    def least(self) -> int:
        """Give the least number of connections that is enough."""
        guess = least_servers(self.erlangs, self.holds.mean, self._wait, self._share)
        if not self.simulated:
            return guess
        # more connections never make anybody wait longer, so between too few and enough the place can be halved
        low, high, step = int(self.erlangs), guess, 1
        while self.share(high) > self._share:
            low, high, step = high, high + step, 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.share(middle) <= self._share else (middle, high)
        return high

    def longest_hold(self, size: int) -> float:
        """Give the mean hold, in seconds, with which so many connections would be enough: the same shape, shorter."""
        low, high = 0.0, min(1.0, size / self.erlangs)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._share_if(size, middle) <= self._share else (low, middle)
        return low * self.holds.mean

    def _share_if(self, size: int, factor: float) -> float:
        if self.erlangs * factor >= size:
            return 1.0
        if self.simulated:
            return self._played().above(self._wait, size, faster=1 / factor)
        return wait_above(self._wait, size, self.erlangs * factor, self.holds.mean * factor)

    def _played(self) -> Day:
        if self._day is None:
            requests = max(_FEWEST, int(_LATE / self._share), int(_FILLINGS * self.erlangs))
            self._day = Day(self._rate, self.holds, burst=self._burst, requests=min(requests, _MOST))
        return self._day
