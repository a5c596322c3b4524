"""How many connections a load needs: by Erlang's formula where it holds, and where it does not by playing the load through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqla_poolguard._erlang import least_servers, wait_above
from sqla_poolguard._hold_times import Exponential
from sqla_poolguard._queueing import Line, Share, Traffic

if TYPE_CHECKING:
    from sqla_poolguard._hold_times import HoldTimes

__all__ = ["Demand"]

_SHORTEST, _LONGEST = 100_000, 400_000
"""Requests of a day."""
_MOST: Final = 1_600_000
"""Requests on all days together."""
_TAIL: Final = 25_000
"""Requests of a day for each square of the variation: so that its load is within a hundredth of the one that is asked about by itself."""
_WILDEST: Final = 20.0
"""Variation of holds beyond which no run of bearable length tells: what matters comes once in it, or not."""
_BURSTS: Final = 1000
_LATE: Final = 1000
"""Of all requests, those that should wait for too long, so that their share is known well enough."""
_FILLINGS: Final = 5000
"""How many times everything that is held at one moment is to come, since they come and go together."""
_STEPS: Final = 12
_FURTHEST: Final = 1.5
"""How many times what seems enough is looked at for what surely is."""


class Demand:
    """What one queue of requests needs so that at most a given share of them waits for longer than a given time."""

    def __init__(
        self,
        rate: float,
        holds: HoldTimes,
        *,
        burst: int = 1,
        wait: float = 0.05,
        share: float = 0.01,
        traffic: Traffic | None = None,
        most: int = _MOST,
    ) -> None:
        """
        Take what is asked.

        Args:
            rate: checkouts per second.
            holds: of the connections.
            burst: checkouts that come at once.
            wait: seconds that are tolerated.
            share: of the checkouts that may wait for longer.
            traffic: of holds with that shape and of such bursts, to be drawn once for several; default: its own.
            most: requests to play at most to be sure; 0 to be content with what one day tells, which is likely.
        """
        self.holds = holds
        self.erlangs = rate * holds.mean
        """Mean number of connections held: Little's law, L = lambda W, with W the time that a connection is *held*. Source: J. D. C.
        Little, "A proof for the queuing formula: L = lambda W", 1961."""
        self.simulated = burst > 1 or not isinstance(holds, Exponential)
        self._wait, self._share, self._most = wait, share, most
        self._day = int(min(max(_SHORTEST, _BURSTS * burst, _TAIL * holds.variation**2 if most else 0), _LONGEST))
        self._fewest = min(max(_LATE / share, _FILLINGS * self.erlangs), most)
        self._traffic = Traffic(holds, burst=burst) if traffic is None else traffic
        self._days = 1
        self._lines: dict[int, Line] = {}

    @property
    def played(self) -> int:
        """Requests that were played for each size that matters."""
        return self._day * self._days

    def share(self, size: int) -> float:
        """Give the share of the checkouts that wait for too long with so many connections; 1 where they cannot keep up."""
        return self.known(size).seen

    def look(self, size: int) -> float:
        """Give that share for a reader: of a few days, if more than one was needed."""
        if self.simulated and size > self.erlangs:
            self._line(size).play(min(self._days, max(_LONGEST // self._day, 1)))
        return self.share(size)

    def known(self, size: int) -> Share:
        """Give that share, and how well it is known."""
        if size <= self.erlangs:
            return Share(1.0, 1.0, 1.0)
        if not self.simulated:
            share = wait_above(self._wait, size, self.erlangs, self.holds.mean)
            return Share(share, share, share)
        return self._line(size).share()

    def least(self) -> int:
        """Give the least number of connections that is enough; where that cannot be told for sure, one that surely is."""
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
        return self._surely(high) if self._most else high

    def is_certain(self, size: int) -> bool:
        """Tell whether it is known that so many are enough, and that one less is not."""
        return not self.is_wild and self._is_settled(size)

    @property
    def is_wild(self) -> bool:
        """Tell whether the holds have so long a tail that no share is known well."""
        return self.simulated and self.holds.variation > _WILDEST

    def longest_hold(self, size: int) -> float:
        """Give the mean hold, in seconds, with which so many connections would be enough: the same shape, shorter."""
        low, high = 0.0, min(1.0, size / self.erlangs)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._share_if(size, middle) <= self._share else (low, middle)
        return low * self.holds.mean

    def _surely(self, size: int) -> int:
        """Play on until it is known that a size is enough and that one less is not; or else take one that surely is."""
        while True:
            self._play(size)
            while self.share(size) > self._share:
                size += 1
                self._play(size)
            self._play(size - 1)
            while self.share(size - 1) <= self._share:
                size -= 1
                self._play(size - 1)
            if (self._is_settled(size) and self.played >= self._fewest) or 2 * self.played > self._most:
                break
            self._days *= 2
        furthest = size * _FURTHEST
        while self.known(size).high > self._share and size < furthest:
            size += 1
            self._play(size)
        return size

    def _is_settled(self, size: int) -> bool:
        return self.known(size).high <= self._share < self.known(size - 1).low

    def _play(self, size: int) -> None:
        """Play a size for as long as is known by now to be needed."""
        if size > self.erlangs:
            self._line(size).play(self._days)

    def _line(self, size: int) -> Line:
        if size not in self._lines:
            line = Line(self._traffic, self.erlangs, size, self._wait / self.holds.mean, self._day)
            line.play(1)
            self._lines[size] = line
        return self._lines[size]

    def _share_if(self, size: int, factor: float) -> float:
        erlangs, mean = self.erlangs * factor, self.holds.mean * factor
        if erlangs >= size:
            return 1.0
        if not self.simulated:
            return wait_above(self._wait, size, erlangs, mean)
        line = Line(self._traffic, erlangs, size, self._wait / mean, self._day)
        line.play(1)
        return line.share().seen
