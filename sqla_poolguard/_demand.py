"""How many connections a load needs: solved where holds are exponential, and where they are not by playing the load through."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from sqla_poolguard._bursts import late_in_bursts, least_for_bursts
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
_EPISODES: Final = 5.0
"""Relaxation times with nothing but late requests that a run has to have: they come together, and fewer of them may be none by chance."""
_WARM: Final = 10.0
"""Relaxation times after which it is forgotten that a run began with everything free."""
_HIDDEN: Final = 0.005
"""Of the share, what may be lost where each day's load is made exactly the one that is asked about."""
_STEP: Final = 0.01
_LARGEST_BURST: Final = 2000
"""Beyond it a formula for the safe side says nothing that anybody would pay for."""
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
        self._wait, self._share, self._most = wait, share, most
        self._day = int(min(max(_SHORTEST, _BURSTS * burst, _TAIL * holds.variation**2 if most else 0), _LONGEST))
        self._fewest = min(max(_LATE / share, _FILLINGS * self.erlangs), most)
        self._traffic = Traffic(holds, burst=burst) if traffic is None else traffic
        self._days = 1
        self._lines: dict[int, Line] = {}
        # holds that differ more are as bad as larger bursts (see `_between`); alike ones keep a burst together for longer
        square, self._varies = min(holds.variation, _WILDEST) ** 2, holds.variation >= 1
        self._spread = (burst + square) / 2
        self._burst, self._worse = (
            burst,
            min(math.ceil(burst - 1 + (square if self._varies else burst)), max(_LARGEST_BURST, burst)),
        )
        patience = wait / holds.mean
        self._safe = least_for_bursts(patience, self.erlangs, self._worse, share)
        self._least = int(self.erlangs) + 1
        if self._varies:
            self._least = self._safe if self._worse == burst else least_for_bursts(patience, self.erlangs, burst, share)
        self.solved = isinstance(holds, Exponential)
        """Whether a formula is exact."""
        self.simulated = not self.solved and self._is_long(max(most, self._day) / self.erlangs, self._safe, self.erlangs)
        """Whether it is played through; where neither is, formulas bound it."""
        self._even = self.simulated and self._hidden() <= _HIDDEN

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
            return self._between(size, self.erlangs, self._wait / self.holds.mean)
        line = self._line(size)
        share = line.share()
        if self._is_long(line.lasted, size, self.erlangs):
            return share
        bounds = self._between(size, self.erlangs, self._wait / self.holds.mean)
        return Share(share.seen, min(share.low, bounds.low), max(share.high, bounds.high))

    def least(self) -> int:
        """Give the least number of connections that is enough; where that cannot be told for sure, one that surely is."""
        if not self.simulated:
            return self._safe
        # more connections never make anybody wait longer, so between too few and enough the place can be halved
        low, high, step = self._least - 1, self._least, 1
        while self.share(high) > self._share:
            low, high, step = high, high + step, 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.share(middle) <= self._share else (middle, high)
        return self._surely(high) if self._most else high

    def is_certain(self, size: int) -> bool:
        """Tell whether it is known that so many are enough, and that one less is not."""
        if self.is_wild or not self._is_settled(size):
            return False
        return self.solved or (self.simulated and self._is_long(self._line(size).lasted, size, self.erlangs))

    @property
    def is_wild(self) -> bool:
        """Tell whether the holds have so long a tail that no share is known well."""
        return self.holds.variation > _WILDEST

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
            while size > self._least and self.share(size - 1) <= self._share:
                size -= 1
                self._play(size - 1)
            if (self._is_settled(size) and self.played >= self._fewest) or 2 * self.played > self._most:
                break
            self._days *= 2
        furthest = size * _FURTHEST
        while self.known(size).high > self._share and size < furthest:
            size += 1
            self._play(size)
        self._play(size - 1)
        return size

    def _is_settled(self, size: int) -> bool:
        return self.known(size).high <= self._share < self.known(size - 1).low

    def _play(self, size: int) -> None:
        """Play a size for as long as is known by now to be needed."""
        if size > self.erlangs:
            self._line(size).play(self._days)

    def _line(self, size: int) -> Line:
        if size not in self._lines:
            line = Line(
                self._traffic,
                self.erlangs,
                size,
                self._wait / self.holds.mean,
                self._day,
                even=self._even,
                warmup=_WARM * self._relaxation(size, self.erlangs),
            )
            line.play(1)
            self._lines[size] = line
        return self._lines[size]

    def _share_if(self, size: int, factor: float) -> float:
        erlangs, patience = self.erlangs * factor, self._wait / (self.holds.mean * factor)
        if erlangs >= size:
            return 1.0
        relaxation = self._relaxation(size, erlangs)
        if self.solved or not self._is_long(self._day / erlangs, size, erlangs):
            return self._between(size, erlangs, patience).high
        line = Line(self._traffic, erlangs, size, patience, self._day, even=self._even, warmup=_WARM * relaxation)
        line.play(1)
        return line.share().seen

    def _between(self, size: int, erlangs: float, patience: float) -> Share:
        """
        Give what formulas tell: exactly where holds are exponential, else two of them, and of these the worse.

        In heavy traffic a queue knows of arrivals and holds only how far they vary, c_a^2 + c_s^2 (J. Kollerstrom, Heavy traffic theory for queues
        with several servers, 1974; W. Whitt, Approximations for the GI/G/m queue, 1993), so that holds which vary more are like exponential
        ones that come in larger bursts. For short waits that is too much; less than with exponential holds it is not.
        """
        low = late_in_bursts(patience, size, erlangs, self._burst)
        high = late_in_bursts(patience, size, erlangs, self._worse) if self._worse > self._burst else low
        return Share(high, low if self._varies else 0.0, high)

    def _relaxation(self, size: int, erlangs: float) -> float:
        """Give the time in which a queue forgets, in mean holds: 1 / (sqrt(c) - sqrt(a))^2 for M/M/c, and not less than a hold."""
        gap = math.sqrt(size) - math.sqrt(erlangs)
        return self._spread * max(1.0, gap**-2) if gap > 0 else math.inf

    def _is_long(self, lasted: float, size: int, erlangs: float) -> bool:
        """Tell whether a run is long against the time in which a queue forgets, divided by the share that is asked about."""
        return lasted * self._share >= _EPISODES * self._relaxation(size, erlangs)

    def _hidden(self) -> float:
        """Give what part of the share is lost if all days are alike: half the curvature times the variance of a day's load."""
        less, more = self.erlangs * (1 - _STEP), self.erlangs * (1 + _STEP)
        if more >= self._safe:
            return math.inf
        patience = self._wait / self.holds.mean
        fewer, later = (max(late_in_bursts(patience, self._safe, each, self._worse), 1e-12) for each in (less, more))
        slope = math.log(later / fewer) / (2 * _STEP)
        return slope**2 * self._spread / self._day
