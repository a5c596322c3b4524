"""What the doctor has found, and how bad it is. A value; the rules make it, the reports show it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["LINK", "Finding", "Severity"]

LINK: Final = "docs/reference/doctor-rules.md#{}"
"""Where a rule is described; filled with its code in small letters."""


class Severity(enum.StrEnum):
    """How bad it is."""

    ERROR = "error"
    """It fails, or gives wrong results, now or at the next peak."""
    WARNING = "warning"
    """It fails when something else goes wrong, or costs more than it gives."""
    INFO = "info"
    """Worth knowing."""

    @property
    def rank(self) -> int:
        """A number to sort by: 0 is the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One rule applied to one case."""

    code: str
    """Such as "PG007"."""
    title: str
    """What is wrong, in a few words: the rule's."""
    severity: Severity
    evidence: str
    """What was seen, with numbers."""
    why: str
    """What comes of it."""
    fix: str
    """What to do."""
    where: str
    """To what it applies: a file and line, an engine, a server."""

    @property
    def link(self) -> str:
        """Where the rule is described."""
        return LINK.format(self.code.lower())
