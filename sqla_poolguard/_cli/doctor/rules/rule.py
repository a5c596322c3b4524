"""A rule: what it is called, what it looks for, and what it says when it has found it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqla_poolguard._cli.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqla_poolguard._cli.doctor.evidence import Evidence, Settings
    from sqla_poolguard._cli.doctor.finding import Severity

__all__ = ["Hit", "Rule", "asyncpg_engines", "engines", "milliseconds", "place", "plural"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A case to which a rule applies."""

    where: str
    """To what it applies."""
    evidence: str
    """What was seen, with numbers."""
    severity: Severity | None = None
    """Where it is not the rule's own."""
    fix: str | None = None
    """Where there is a better one than the rule's."""
    why: str | None = None
    """Likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule."""

    code: str
    title: str
    severity: Severity
    looks: str
    """What it needs to see, and when it applies: a sentence or two for the reference."""
    why: str
    fix: str
    check: Callable[[Evidence], Iterable[Hit]]
    """Gives the cases to which it applies; it must not apply where something that it needs was not seen."""

    def apply(self, evidence: Evidence) -> Iterator[Finding]:
        """Give the findings."""
        for hit in self.check(evidence):
            yield Finding(
                code=self.code,
                title=self.title,
                severity=hit.severity or self.severity,
                evidence=hit.evidence,
                why=hit.why or self.why,
                fix=hit.fix or self.fix,
                where=hit.where,
            )


def engines(evidence: Evidence) -> Iterator[Settings]:
    """Give the engines that have a pool with a size."""
    return (settings for settings in evidence.settings if settings.bounded)


def asyncpg_engines(evidence: Evidence) -> Iterator[Settings]:
    """Give the engines on asyncpg whose arguments are known."""
    return (settings for settings in evidence.settings if settings.driver == "asyncpg" and settings.arguments_known)


def place(evidence: Evidence) -> str:
    """Give what a finding about the server applies to."""
    return evidence.settings[0].address if evidence.settings else "the server"


def milliseconds(seconds: float) -> str:
    """Write a short time."""
    value = seconds * 1000
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" if value >= 0.1 else f"{value:.2f} ms"  # noqa: PLR2004


def plural(count: int, noun: str) -> str:
    """Write a count."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
