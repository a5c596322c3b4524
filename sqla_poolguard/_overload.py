"""The words for too much demand: how important a request is, and that some are turned away. They know nothing of pools."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Overload", "Priority"]


class Priority(enum.IntEnum):
    """How important a request is; the most important first."""

    CRITICAL = 0
    """Served first, turned away last."""
    NORMAL = 1
    """Neither."""
    SHEDDABLE = 2
    """Served last, turned away first, and at once while a queue stands."""


@dataclass(frozen=True, slots=True)
class Overload:
    """Requests that were turned away because they could not have been served in time, or would have been."""

    pool: str
    """Name of the pool."""
    count: int
    """How many, since this was told last."""
    seconds: float
    """How long ago that was; 0 if never."""
    predicted: float
    """Seconds of wait that were predicted for the last of them."""
    max_wait: float
    """Seconds that anybody may wait (`Guard(max_wait=…)`)."""
    acted: bool
    """Whether they were turned away; False: `fail_fast="observe"` only counts them."""
