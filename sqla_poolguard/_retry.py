"""When may a caller that was turned away come back? One virtual line; time is passed in."""

from __future__ import annotations

from typing import Final

__all__ = ["RetryLine"]

_LONGEST: Final = 30.0


class RetryLine:
    """
    Give everybody who is turned away a place in one line, worked off at half the pool's rate.

    "When will the queue be drained" is no honest answer, because those who were turned away come back too.
    Half the rate, because fresh arrivals take the rest.
    The line spreads the returns by itself, grows with the overload and drains with it.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0.0

    def next_turn(self, now: float, waiting: int, gap: float, soonest: float = 0.0) -> float:
        """
        Take the next place.

        Args:
            now: seconds on the pool's clock.
            waiting: requests that wait already.
            gap: seconds between two connections coming back while all are out.
            soonest: seconds before which it would be in vain in any case.

        Returns:
            Seconds from now, at most 30.
        """
        start = now + max(waiting * gap, soonest)
        self._last = min(max(self._last, start) + 2 * gap, now + _LONGEST)
        return self._last - now
