"""Every expression that comes with the package, in the rules and in the dashboard, and what each of them asks for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import promql_parser
import yaml

from sqla_poolguard.prometheus import dashboard, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ALERTS", "RECORDS", "Asked", "Panel", "asked_by", "panels", "variables"]

RULES = [rule for group in yaml.safe_load(rules())["groups"] for rule in group["rules"]]
RECORDS = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
CHOSEN = {"$__rate_interval": "1m", "$__range": "5m", "$instance": ".*", "$pool": ".*"}


class Panel(NamedTuple):
    """One query of a panel."""

    title: str
    expression: str


class Asked(NamedTuple):
    """What an expression selects."""

    metric: str
    labels: frozenset[str]


def panels(job: str) -> list[Panel]:
    """Give every query of the dashboard, with one job chosen."""
    made = json.loads(dashboard())["panels"]
    return [Panel(panel["title"], _choose(target["expr"], job)) for panel in made for target in panel.get("targets", ())]


def variables(job: str) -> dict[str, tuple[str, str]]:
    """Give what the dashboard's variables select: series, and the label whose values they are."""
    found = {}
    for variable in json.loads(dashboard())["templating"]["list"]:
        if variable["type"] == "query":
            series, _, label = variable["query"].removeprefix("label_values(").removesuffix(")").rpartition(", ")
            found[variable["name"]] = (_choose(series, job), label)
    return found


def _choose(expression: str, job: str) -> str:
    for macro, value in {**CHOSEN, "$job": job}.items():
        expression = expression.replace(macro, value)
    assert "$" not in expression, expression
    return expression


def asked_by(expression: str) -> list[Asked]:
    """Give the metrics that an expression reads, each with the labels that it names, be it to select or to group."""
    return list(_selectors(promql_parser.parse(expression), frozenset()))


def _selectors(node: object, grouped: frozenset[str]) -> Iterator[Asked]:
    if isinstance(node, promql_parser.VectorSelector):
        yield Asked(node.name, grouped | {matcher.name for matcher in node.matchers.matchers})
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from _selectors(node.vector_selector, grouped)
    elif isinstance(node, promql_parser.AggregateExpr):
        yield from _selectors(node.expr, grouped | set(node.modifier.labels if node.modifier is not None else ()))
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from _selectors(node.lhs, grouped)
        yield from _selectors(node.rhs, grouped)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from _selectors(argument, grouped)
    elif isinstance(node, promql_parser.ParenExpr):
        yield from _selectors(node.expr, grouped)
    else:
        assert isinstance(node, (promql_parser.NumberLiteral, promql_parser.StringLiteral)), f"what is {node!r}?"
