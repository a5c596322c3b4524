"""The book of what was found: each thing told once, then counted; and the time wasted, line by line. It reads no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sqla_poolguard._finding import Waste

if TYPE_CHECKING:
    from sqla_poolguard._facts import Site
    from sqla_poolguard._finding import Finding, FindingKind

__all__ = ["Findings"]

REPEAT_AFTER: Final = 600.0
"""Seconds after which something that is still found is told again, with its count."""

_MOST_LINES: Final = 1000


class Findings:
    """What was found in one engine's pool, through all its generations."""

    __slots__ = ("_entries", "_waste")

    def __init__(self) -> None:
        self._entries: dict[tuple[FindingKind, Site | None, Site | None], tuple[Finding, float]] = {}
        """The latest finding at these lines, with its count, and when it was told last."""
        self._waste: dict[tuple[Site | None, str | None], float] = {}

    def note(self, finding: Finding, now: float) -> Finding | None:
        """
        Count a finding.

        Args:
            finding: the finding.
            now: seconds on the pool's clock.

        Returns:
            The finding with its count, if it is to be told: the first at these lines, or the first for a long time.
        """
        key = (finding.kind, finding.site, finding.current)
        known = self._entries.get(key)
        if known is None:
            if len(self._entries) >= _MOST_LINES:
                return None
            self._entries[key] = (finding, now)
            return finding
        before, told_at = known
        counted = replace(finding, count=before.count + 1)
        tell = now - told_at >= REPEAT_AFTER
        self._entries[key] = (counted, now if tell else told_at)
        return counted if tell else None

    def add_waste(self, site: Site | None, awaiting: str | None, seconds: float) -> None:
        """Count time for which a connection was idle while a line awaited something else."""
        key = (site, awaiting)
        if key in self._waste or len(self._waste) < _MOST_LINES:
            self._waste[key] = self._waste.get(key, 0.0) + seconds

    def listed(self) -> tuple[Finding, ...]:
        """Give the latest finding of every place, those found most often first."""
        return tuple(sorted((finding for finding, _ in list(self._entries.values())), key=lambda finding: -finding.count))

    def waste(self) -> tuple[Waste, ...]:
        """Give the lines that waste connections, the worst first."""
        rows = [Waste(site, awaiting, seconds) for (site, awaiting), seconds in list(self._waste.items())]
        return tuple(sorted(rows, key=lambda waste: -waste.seconds))

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        self._entries.clear()
        self._waste.clear()
