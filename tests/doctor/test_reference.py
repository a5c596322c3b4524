"""The rules as they are written down: for each its code, and nothing in them that was shown to be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sqla_poolguard._cli.doctor import reference
from sqla_poolguard._cli.doctor.evidence import Evidence, Settings
from sqla_poolguard._cli.doctor.rules import RULES, apply

ROOT = Path(__file__).parents[2]
WRONG = [
    r"prepared_statement_cache_size=0[^,]{0,20}is enough",
    r"pool_size=0[^.]{0,40}serverless",
    r"pre_ping[^.]{0,40}SELECT 1",
    r"emergency",
    r"\+10 and redeploy",
    r"engine\.dispose\(\) in",
    r"pg_terminate_backend[^.]{0,30}on idle connections",
]
"""Some of the advice that failed when it was run (the research on users has the list)."""


def test_reference_page():
    """The page in the documentation is what the command prints: `poolguard doctor --explain all`."""
    assert (ROOT / "docs" / "reference" / "doctor-rules.md").read_text() == reference.page()


@pytest.mark.parametrize("code", RULES)
def test_rule_is_complete(code):
    """Each says what it looks for, why, and what to do; its code is its name."""
    rule = RULES[code]
    assert rule.code == code
    assert all(len(text) > 20 for text in (rule.title, rule.looks, rule.why, rule.fix))
    assert not rule.title.endswith(".")


@pytest.mark.parametrize("words", WRONG)
def test_wrong_advice_is_not_repeated(words):
    """What failed when it was run is not advised."""
    assert re.search(words, reference.page()) is None


def test_without_evidence_nothing_is_said():
    """A rule that could not see what it needs is silent; it does not guess."""
    assert apply(Evidence()) == []
    plain = Settings(source="x", address="h:5432/d", driver="asyncpg", pool="QueuePool", application_name="orders")
    assert apply(Evidence(settings=(plain,))) == []
