"""May a request wait for a connection? Decided by the wait that measured holds predict. Time and counts are passed in."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Final

from sqla_poolguard._overload import Priority

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Admission", "Pace"]

_MEMORY: Final = 64
"""Ended leases over which holds are averaged, at least; 16 to 256 differ by 1 % of goodput (shared/research/overload.md, E10)."""
_ENOUGH: Final = 16
"""Ended leases from which their mean is worth something."""
_FRESH: Final = 1 / 64
"""Of `max_wait`: for so long an estimate is good enough for the next request too."""
_TIGHT: Final = 1 / 8
"""Of `max_wait`: what a request may wait while a queue stands."""
_STANDING: Final = 2.0
"""Times `max_wait` after which a queue that was never empty is no burst any more."""
_LONG: Final = 1 / 3
"""Of `max_wait`: a mean hold above that makes a prediction poor."""


def _latest(samples: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """Give the last ones, the latest first, though an exporter may take out others meanwhile, in another thread."""
    try:
        return list(itertools.islice(reversed(samples), count))
    except RuntimeError:  # a deque notices; to copy all of it is one step of the interpreter
        return list(itertools.islice(reversed(list(samples)), count))


class Pace:
    """
    How fast connections come back while all are out.

    The mean hold is the connection-seconds spent over the leases that ended, both fading away, so that running holds count:
    a leak, a hang and a database that slows down show at once, not when the first of them ends.
    Nothing is noted at a checkout that is served at once; what ended meanwhile is read from the samples that are kept anyway.
    """

    __slots__ = ("_ended", "_keep", "_looked_at", "_spent", "_total", "_waited")

    def __init__(self, limit: float) -> None:
        """
        Know nothing yet.

        Args:
            limit: connections that the pool may have; infinity for any number.
        """
        self.remember(limit)
        self._spent = self._ended = 0.0
        """Connection-seconds, and ended leases, both faded."""
        self._looked_at = -math.inf
        self._total = 0
        self._waited = False

    def remember(self, limit: float) -> None:
        """Let the past fade as fits a pool of this size."""
        self._keep = 1 - 1 / max(_MEMORY, 2 * limit if limit < math.inf else 0)

    def look(self, now: float, busy: int, total: int, waiting: int, samples: Sequence[tuple[float, float]]) -> None:
        """
        Take in what has happened since the last look.

        Args:
            now: seconds on the pool's clock.
            busy: connections that are out.
            total: leases granted so far. While somebody waits, one is granted whenever one ends.
            waiting: requests that wait.
            samples: (wait, hold) of the last leases that ended, the latest last, as far as they are still there.
        """
        ended = max(total - self._total, 0)
        if waiting and self._waited:  # nothing was idle in between
            weight = self._fade(ended)
            self._spent += weight * busy * max(now - self._looked_at, 0.0)
        else:
            recent = [held for _, held in _latest(samples, min(ended, _MEMORY))]
            weight = self._fade(len(recent))
            self._spent += weight * sum(recent)
        self._looked_at, self._total, self._waited = now, total, waiting > 0

    def _fade(self, ended: int) -> float:
        """
        Let the past fade by so many ended leases, and count these.

        Returns:
            What each second spent on them weighs, since the first of them have faded a little already.
        """
        if not ended:
            return 1.0
        kept = self._keep**ended
        count = (1 - kept) / (1 - self._keep)
        self._spent *= kept
        self._ended = self._ended * kept + count
        return count / ended

    def hold(self, now: float, busy: int) -> float:
        """Estimate for how many seconds a connection is held. Where little has ended yet, what runs counts as if it ended now."""
        running = busy * max(now - self._looked_at, 0.0) if self._waited else 0.0
        return (self._spent + running) / max(self._ended, busy, 1)

    @property
    def mean(self) -> float:
        """Mean hold at the last look, in seconds; 0 while too little is known."""
        return self._spent / self._ended if self._ended >= _ENOUGH else 0.0

    def gap(self, now: float, busy: int, servers: int) -> float:
        """Estimate the seconds between two connections coming back when so many are out."""
        return self.hold(now, busy) / max(servers, 1)


class Admission:
    """
    Turn away whom the pool cannot serve in time, and nobody else.

    A request may wait if the wait that is predicted for it (Little's law) is within a budget: `max_wait`, so that a burst is absorbed;
    or an eighth of it once a queue has stood for longer than a burst takes. What is turned away is the oldest waiter, because
    it would be the next to be served too late, and those who are served have waited little.
    """

    __slots__ = ("_empty_at", "_fresh_until", "_gap", "_tight", "max_wait", "pace", "predicted")

    def __init__(self, max_wait: float, limit: float) -> None:
        """
        Begin with an empty queue.

        Args:
            max_wait: seconds that anybody may wait at most.
            limit: connections that the pool may have; infinity for any number.
        """
        self.max_wait = max_wait
        self._tight = max_wait * _TIGHT
        self.pace = Pace(limit)
        self.predicted = 0.0
        """Seconds of wait that were predicted last."""
        self._empty_at = -math.inf
        self._fresh_until = -math.inf
        self._gap = 0.0

    def is_fresh(self, now: float, waiting: int) -> bool:
        """Tell whether the last look is good enough for one more request; notes when the queue was empty."""
        if not waiting:
            self._empty_at = now
        return now < self._fresh_until

    def look(self, now: float, busy: int, servers: int, total: int, waiting: int, samples: Sequence[tuple[float, float]]) -> None:
        """Estimate anew how fast connections come back when `servers` are out, as they soon are; for the others see `Pace.look`."""
        self.pace.look(now, busy, total, waiting, samples)
        self._gap = self.pace.gap(now, busy, servers)
        self._fresh_until = now + self.max_wait * _FRESH

    def budget(self, now: float, level: Priority) -> float:
        """Tell how many seconds a request may be predicted to wait."""
        stands = now - self._empty_at > _STANDING * self.max_wait
        if level is Priority.SHEDDABLE:
            return 0.0 if stands else self._tight
        return self.max_wait if level is Priority.CRITICAL or not stands else self._tight

    def is_calm(self, now: float, waiting: int) -> bool:
        """Tell whether the last look is good enough for one more request, and makes its wait short; False where the queue was empty."""
        return waiting > 0 and now < self._fresh_until and (waiting + 1) * self._gap <= self._tight

    def is_short(self, ahead: int) -> bool:
        """Tell whether so many ahead make so short a wait that it is within any budget, but for that of a sheddable request."""
        return (ahead + 1) * self._gap <= self._tight

    def fits(self, now: float, ahead: int, level: Priority) -> bool:
        """Tell whether a request with so many ahead of it may wait."""
        self.predicted = predicted = (ahead + 1) * self._gap
        if predicted <= self._tight and level is not Priority.SHEDDABLE:  # within any budget
            return True
        return predicted <= self.budget(now, level)

    @property
    def is_poor(self) -> bool:
        """Whether holds are too long for `max_wait`: a prediction is worth little when one hold is a good part of it."""
        return self.pace.mean > self.max_wait * _LONG
