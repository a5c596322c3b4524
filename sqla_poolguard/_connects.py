"""What the breaker deals with: connects that are under way, and whether requests may begin one."""

from __future__ import annotations

import enum

__all__ = ["BreakerState", "Connect"]


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

    __slots__ = ("is_over", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.is_over = False
        """Whether the slot that was taken for it has found its end; see `Slots.finish`."""
