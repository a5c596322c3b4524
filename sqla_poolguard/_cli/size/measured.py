"""What was measured, wherever it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqla_poolguard._budget import Others, ServerLimits
    from sqla_poolguard._hold_times import HoldTimes

__all__ = ["Measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one source told; None where it told nothing."""

    source: str
    """Whence, for a reader; without passwords."""
    rate: float | None = None
    """Checkouts per second."""
    of_one: bool = False
    """Whether that is the rate of one process, and not of the service."""
    holds: HoldTimes | None = None
    outside: float | None = None
    """Of a mean hold, the seconds awaiting something else than the database."""
    lacks: str = ""
    """Why it told no holds, where it should have."""
    limits: ServerLimits | None = None
    others: Others | None = None
    """What others have now."""
    notes: tuple[str, ...] = field(default=())
    """What a reader should know of how good it is."""
