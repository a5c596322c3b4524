"""How long connections are held: a mean and a shape, from which one can draw."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import random

__all__ = ["Exponential", "Histogram", "HoldTimes", "Lognormal"]

_Z99: Final = NormalDist().inv_cdf(0.99)
_LONGEST_TAIL: Final = 1000
"""Of a lognormal shape: what it would say of the rest beyond its 99th percentile is no measurement any more."""


class HoldTimes(Protocol):
    """What hold times are like; all in seconds."""

    @property
    def mean(self) -> float:
        """Their mean."""

    @property
    def variation(self) -> float:
        """Their standard deviation, in means: 1 for exponential ones."""

    @property
    def words(self) -> str:
        """What is known of them, for a reader."""

    def draw(self, dice: random.Random) -> float:
        """Draw one."""

    def draws(self, dice: random.Random, number: int) -> list[float]:
        """Draw many, in less time."""

    def scaled(self, factor: float) -> HoldTimes:
        """Give the same shape, so many times as long."""


@dataclass(frozen=True, slots=True)
class Exponential:
    """Only the mean is known: most are short, few are long. What Erlang's formulas assume."""

    mean: float

    @property
    def variation(self) -> float:
        """As many means as one."""
        return 1.0

    @property
    def words(self) -> str:
        """What is known of them."""
        return "exponential: only their mean is known"

    def draw(self, dice: random.Random) -> float:
        """Draw one."""
        return dice.expovariate(1 / self.mean)

    def draws(self, dice: random.Random, number: int) -> list[float]:
        """Draw many."""
        mean, chance, log = self.mean, dice.random, math.log
        return [-mean * log(1.0 - chance()) for _ in range(number)]

    def scaled(self, factor: float) -> Exponential:
        """Give the same shape, so many times as long."""
        return Exponential(self.mean * factor)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """The median and the 99th percentile are known; between and above them they are taken to be lognormal, as latencies often are."""

    p50: float
    p99: float

    def __post_init__(self) -> None:
        if not 0 < self.p50 <= self.p99 <= self.p50 * _LONGEST_TAIL:
            msg = (
                f"p50={self.p50!r} and p99={self.p99!r} are not allowed; allowed: above 0, and p99 no less than p50 and at most "
            )
            msg += f"{_LONGEST_TAIL} times as long"
            raise ValueError(msg)

    @property
    def _sigma(self) -> float:
        return math.log(self.p99 / self.p50) / _Z99

    @property
    def mean(self) -> float:
        """As follows from the two."""
        return self.p50 * math.exp(self._sigma**2 / 2)

    @property
    def variation(self) -> float:
        """As follows from the two."""
        return math.sqrt(math.expm1(self._sigma**2))

    @property
    def words(self) -> str:
        """What is known of them."""
        return "lognormal through their median and 99th percentile"

    def draw(self, dice: random.Random) -> float:
        """Draw one."""
        return self.p50 * math.exp(self._sigma * dice.gauss())

    def draws(self, dice: random.Random, number: int) -> list[float]:
        """Draw many: of two chances two normal ones (Box and Muller, 1958)."""
        p50, sigma, chance, exp, log = self.p50, self._sigma, dice.random, math.exp, math.log
        drawn: list[float] = []
        add = drawn.append
        for _ in range((number + 1) // 2):
            radius, angle = sigma * math.sqrt(-2.0 * log(1.0 - chance())), math.tau * chance()
            add(p50 * exp(radius * math.cos(angle)))
            add(p50 * exp(radius * math.sin(angle)))
        return drawn[:number]

    def scaled(self, factor: float) -> Lognormal:
        """Give the same shape, so many times as long."""
        return Lognormal(self.p50 * factor, self.p99 * factor)


class Histogram:
    """They were counted in buckets, and summed: the mean is exact, the place within a bucket is not known."""

    def __init__(self, bounds: tuple[float, ...], counts: tuple[float, ...], total: float) -> None:
        """
        Take what was measured.

        Args:
            bounds: upper ends of the buckets, ascending; the last bucket, above the last bound, has none.
            counts: of each bucket, one more than bounds.
            total: sum of all of them, in seconds.

        Raises:
            ValueError: they do not fit together, or nothing was counted.
        """
        number = sum(counts)
        if len(counts) != len(bounds) + 1 or list(bounds) != sorted(set(bounds)) or min(counts) < 0:
            msg = f"a histogram with bounds {bounds} and counts {counts} is none"
            raise ValueError(msg)
        if number <= 0 or total <= 0:
            msg = f"a histogram of {number:g} hold times, {total:g} s in all, tells nothing"
            raise ValueError(msg)
        self.bounds, self.counts, self.total = bounds, counts, total
        self.mean = total / number
        self._edges = _edges(bounds, counts, total)
        self._sums = list(accumulate(counts))
        # even within its bucket; then all of them are stretched, so that the mean is the one that was measured
        middles = [(low + high) / 2 for low, high in self._edges]
        self._stretch = total / sum(count * middle for count, middle in zip(counts, middles, strict=True))

    @property
    def variation(self) -> float:
        """As far as buckets tell."""
        squares = [(low * low + low * high + high * high) / 3 for low, high in self._edges]
        mean_square = sum(count * each for count, each in zip(self.counts, squares, strict=True)) / self._sums[-1]
        return math.sqrt(max(mean_square * self._stretch**2 / self.mean**2 - 1, 0.0))

    @property
    def words(self) -> str:
        """What is known of them."""
        return f"a histogram of {self._sums[-1]:,.0f} of them"

    def draw(self, dice: random.Random) -> float:
        """Draw one."""
        low, high = self._edges[bisect_right(self._sums, dice.random() * self._sums[-1], hi=len(self._sums) - 1)]
        return dice.uniform(low, high) * self._stretch

    def draws(self, dice: random.Random, number: int) -> list[float]:
        """Draw many."""
        stretch, chance = self._stretch, dice.random
        chosen = dice.choices(self._edges, cum_weights=self._sums, k=number)
        return [(low + (high - low) * chance()) * stretch for low, high in chosen]

    def scaled(self, factor: float) -> Histogram:
        """Give the same shape, so many times as long."""
        return Histogram(tuple(bound * factor for bound in self.bounds), self.counts, self.total * factor)


def _edges(bounds: tuple[float, ...], counts: tuple[float, ...], total: float) -> list[tuple[float, float]]:
    """Give the ends of all buckets; the last one reaches as far as the sum demands, and at least to its own start."""
    lower = (0.0, *bounds)
    edges = list(zip(lower, bounds, strict=False))
    rest = total - sum(count * (low + high) / 2 for count, (low, high) in zip(counts, edges, strict=False))
    last = lower[-1]
    beyond = max(2 * rest / counts[-1] - last, last * 1.0001) if counts[-1] else last
    return [*edges, (last, beyond)]
