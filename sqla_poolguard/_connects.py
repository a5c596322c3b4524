"""What the breaker deals with: connects that are under way, and whether requests may begin one."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BreakerState", "Connect"]

_LATE: Final = 0.5
"""Share of the time for which a loop is late when it has more to do than it can; as in the verdict."""


class BreakerState(enum.StrEnum):
    """Whether requests may connect."""

    CLOSED = "closed"
    """They may."""
    OPEN = "open"
    """They may not; a probe is armed."""
    HALF_OPEN = "half_open"
    """They may not; the probe is under way."""


class Connect:
    """One connect under way, and since when on the pool's clock."""

    __slots__ = ("_lag", "_lag_before", "is_over", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.is_over = False
        """Whether the slot that was taken for it has found its end; see `Slots.finish`."""
        self._lag: Callable[[], float] = float
        self._lag_before = 0.0

    def start(self, now: float, lag: Callable[[], float]) -> None:
        """
        Note that it really begins only now.

        Args:
            now: on the pool's clock.
            lag: gives the seconds for which the event loop that is to hear the answer has been late so far.
        """
        self.since = now
        self._lag, self._lag_before = lag, lag()

    def age(self, now: float) -> float:
        """Give the seconds for which it has been under way; 0 where the loop was late for half of them: it would not have heard an answer."""
        age = now - self.since
        return age if self._lag() - self._lag_before < _LATE * age else 0.0
