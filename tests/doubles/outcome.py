"""What was seen of the clients of a world, and the figures that are made of it."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from doubles.world import Scene


@dataclass
class Request:
    """What a client wants; it is served at most once."""

    at: float
    work: float
    level: int
    served: float | None = None


@dataclass
class Attempt:
    """One try at it."""

    request: Request
    number: int
    at: float
    gone: bool = False
    """Whether its client has given up."""
    timer: asyncio.TimerHandle | None = None
    answered: float | None = None
    """When it was, in time or not."""
    refused: float | None = None
    granted: float | None = None


@dataclass
class Outcome:
    """What was seen, and the figures that are made of it."""

    scene: Scene
    began: float
    requests: list[Request] = field(default_factory=list, repr=False)
    attempts: list[Attempt] = field(default_factory=list, repr=False)
    connects: list[float] = field(default_factory=list, repr=False)
    """When connects were begun."""
    would_reject: int = 0

    def _within(self, at: float | None, span: tuple[float, float] | None) -> bool:
        start, end = span or (self.scene.warmup, self.scene.seconds)
        return at is not None and start <= at - self.began < end

    def goodput(self, span: tuple[float, float] | None = None) -> float:
        """
        Give the answers in time, as a share of what the connections can do.

        Over the whole run, that is measured by the holds that were drawn, so that the figure tells of the pool and not of the dice;
        for an event, by the mean hold.
        """
        start, end = span or (self.scene.warmup, self.scene.seconds)
        served = sum(self._within(request.served, span) for request in self.requests)
        hold = self.scene.hold
        if span is None:
            drawn = [one.request.work for one in self.attempts if self._within(one.granted, None)]
            hold = sum(drawn) / max(len(drawn), 1)
        return served * hold / self.scene.connections / (end - start)

    def latency(self, share: float) -> float:
        """Give a quantile of the seconds that answers in time took, per attempt."""
        return quantile(
            [one.answered - one.at for one in self.attempts if one.answered and not one.gone and self._within(one.at, None)],
            share,
        )

    def time_to_refusal(self, share: float, span: tuple[float, float] | None = None) -> float:
        """Give a quantile of the seconds after which an attempt was refused."""
        return quantile([one.refused - one.at for one in self.attempts if one.refused and self._within(one.at, span)], share)

    def refused(self) -> float:
        """Give the share of attempts that were refused."""
        seen = [one for one in self.attempts if self._within(one.at, None)]
        return sum(one.refused is not None for one in seen) / max(len(seen), 1)

    def time_to_error(self, share: float, span: tuple[float, float]) -> float:
        """Give a quantile of the seconds after which attempts were told that they get no connection; who was never told counts too."""
        end = self.began + self.scene.seconds
        return quantile(
            [(one.refused or end) - one.at for one in self.attempts if not one.granted and self._within(one.at, span)], share
        )

    def connects_begun(self, span: tuple[float, float]) -> int:
        """Count the connects that were begun."""
        return sum(self._within(at, span) for at in self.connects)

    def longest_wait(self) -> float:
        """Give the longest that anybody waited, for a connection or for a refusal, in seconds."""
        ends = [(one.granted or one.refused, one.at) for one in self.attempts]
        return max(end - at for end, at in ends if end is not None)

    def served(self, span: tuple[float, float] | None = None, level: int | None = None) -> float:
        """Give the share of requests, of those that came in a span, that were served in the end."""
        seen = [one for one in self.requests if self._within(one.at, span) and level in {None, one.level}]
        return sum(one.served is not None for one in seen) / max(len(seen), 1)

    def honest(self) -> float:
        """Give the share of retries that succeeded."""
        retries = [one for one in self.attempts if one.number and (one.answered or one.refused)]
        return sum(one.answered is not None and not one.gone for one in retries) / max(len(retries), 1)

    def recovery(self, end: float, load: float) -> float:
        """Tell how many seconds after an event goodput was back, for two seconds, at 0.9 of the load."""
        step = 0.5
        at = end
        while at + 4 * step <= self.scene.seconds:
            if self.goodput((at, at + 4 * step)) >= 0.9 * min(load, 1.0) and self.goodput((at, at + step)) >= 0.63 * load:
                return at - end
            at += step
        return math.inf

    def back(self, end: float) -> float:
        """Tell how many seconds after an event as many were served as came, but for 5 %: in two seconds, and in the first half of one."""
        came = sorted(request.at - self.began for request in self.requests)
        served = sorted(request.served - self.began for request in self.requests if request.served is not None)

        def is_back(at: float, seconds: float) -> bool:
            return _count(served, at, at + seconds) >= 0.95 * _count(came, at, at + seconds)

        at = end
        while at + 2.0 <= self.scene.seconds:
            if is_back(at, 2.0) and is_back(at, 0.5):
                return at - end
            at += 0.1
        return math.inf


class Ordeal(NamedTuple):
    """The figures of an outage."""

    told_after: float
    """The 99th percentile of the seconds until those are told who get no connection."""
    longest_wait: float
    connects: int
    """Connects begun."""
    back_after: float
    """Seconds from its end to usual service."""

    @classmethod
    def of(cls, outcome: Outcome, seconds: float) -> Ordeal:
        """
        Make them.

        Args:
            outcome: of a scene with an outage.
            seconds: of it that are looked at, from its start.
        """
        _, start, end, _ = outcome.scene.outage  # type: ignore[misc]
        span = (start, start + seconds)
        longest = max(outcome.longest_wait(), outcome.time_to_error(1.0, span))  # who was never told too
        return cls(outcome.time_to_error(0.99, span), longest, outcome.connects_begun(span), outcome.back(end))


def _count(ordered: Sequence[float], start: float, end: float) -> int:
    return bisect.bisect_left(ordered, end) - bisect.bisect_left(ordered, start)


def quantile(values: Sequence[float], share: float) -> float:
    """Give a quantile; not a number if there is nothing."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else math.nan
