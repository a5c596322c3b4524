"""Remembers for how long the event loop has stood still lately: who waited meanwhile waited for that, and not for a connection."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Standstills"]

_REMEMBERED: Final = 120.0
"""Seconds; of a longer wait the rest counts as a wait."""


class Standstills:
    """The lag of one event loop, seen at every look."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()
        """(when, lag until then), the oldest first."""
        self._sum, self._last = 0.0, 0.0

    def look(self, now: float, lag: float) -> None:
        """Note the lag since the loop has a beat, which it loses while nothing is out: then it begins at 0 again."""
        self._sum += lag - self._last if lag >= self._last else lag
        self._last = lag
        self._seen.append((now, self._sum))
        while len(self._seen) > 1 and self._seen[1][0] <= now - _REMEMBERED:
            self._seen.popleft()

    def within(self, seconds: float) -> float:
        """Tell how many of the last seconds were none; those between two looks count for both."""
        if not self._seen:
            return 0.0
        until, total = self._seen[-1]
        before = next((lag for when, lag in reversed(self._seen) if when <= until - seconds), self._seen[0][1])
        return min(total - before, seconds)
