"""The rules of the doctor: pure functions from evidence to what they have to say about it, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqla_poolguard._cli.doctor.rules import app, engine, pooler, server

if TYPE_CHECKING:
    from sqla_poolguard._cli.doctor.evidence import Evidence
    from sqla_poolguard._cli.doctor.finding import Finding
    from sqla_poolguard._cli.doctor.rules.rule import Rule

__all__ = ["RULES", "apply"]

RULES: Final[dict[str, Rule]] = {
    rule.code: rule for rule in sorted((*engine.RULES, *server.RULES, *pooler.RULES, *app.RULES), key=lambda rule: rule.code)
}
"""Every rule, by its code."""


def apply(evidence: Evidence) -> list[Finding]:
    """Apply every rule; the worst findings come first."""
    found = [finding for rule in RULES.values() for finding in rule.apply(evidence)]
    return sorted(found, key=lambda finding: (finding.severity.rank, finding.code))
