"""How many spans one line of code may have: so many in a second, those beyond are counted. It reads no clock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sqla_poolguard._totals import Totals

__all__ = ["EACH_SECOND", "Quota"]

EACH_SECOND: Final = 20
"""Spans of one kind that may be drawn for one line of code within a second."""

_MOST_LINES: Final = 1000
_OTHERS: Final = "other lines"


class _Line:
    __slots__ = ("begun", "count", "suppressed")

    def __init__(self) -> None:
        self.begun, self.count, self.suppressed = -math.inf, 0, 0


class Quota:
    """
    The quotas of all lines that one pool draws for.

    The lines beyond a thousand share one. Threads may let one too many through, and count one too few; nothing breaks by it.
    """

    __slots__ = ("_lines", "_totals")

    def __init__(self, totals: Totals) -> None:
        """
        Begin with nothing drawn.

        Args:
            totals: counts what was suppressed.
        """
        self._lines: dict[Hashable, _Line] = {}
        self._totals = totals

    def take(self, key: Hashable, now: float) -> int | None:
        """
        Ask whether one more may be drawn.

        Args:
            key: what for.
            now: seconds on any clock that does not go back.

        Returns:
            How many were suppressed since the last that was drawn; None if this one is.
        """
        line = self._lines.get(key)
        if line is None:
            line = self._lines.setdefault(key if len(self._lines) < _MOST_LINES else _OTHERS, _Line())
        if now - line.begun >= 1:
            line.begun, line.count = now, 0
        if line.count >= EACH_SECOND:
            line.suppressed += 1
            self._totals.spans_suppressed += 1
            return None
        line.count += 1
        suppressed, line.suppressed = line.suppressed, 0
        return suppressed

    def suppress(self) -> None:
        """Count one that is not drawn for want of room, whichever line it is for."""
        self._totals.spans_suppressed += 1

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        self._lines.clear()
