"""What comes with the package can be had from the command line and from Python."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
import yaml
from click.testing import CliRunner

from sqla_poolguard._cli.command import poolguard
from sqla_poolguard._otel import _names as names
from sqla_poolguard._prometheus import families
from sqla_poolguard.prometheus import PoolCollector, dashboard, rules


@pytest.mark.parametrize(("name", "file"), [("rules", rules), ("dashboard", dashboard)])
def test_command_prints_the_file(name, file):
    """`poolguard prometheus rules` and `… dashboard` print what the functions give, to the letter."""
    done = CliRunner().invoke(poolguard, ["prometheus", name])
    assert done.exit_code == 0
    assert done.stdout == file()


def test_files_are_what_they_are_for():
    """Rules are in groups, as Prometheus wants them; the dashboard has an identity, so that it is imported once."""
    assert {rule.get("alert") or rule["record"] for group in yaml.safe_load(rules())["groups"] for rule in group["rules"]}
    assert json.loads(dashboard())["uid"] == "sqla-poolguard"


def test_reference_lists_what_there_is():
    """The table in the reference has every metric, with its type, its label and its name in OpenTelemetry, and no other."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "reference" / "prometheus.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (?:`(\w+)`)? ?\| `([\w.]+)` \|$", page, re.MULTILINE)
    written = {(name.removesuffix("_total"), kind, label if label != "le" else "") for name, kind, label, _ in rows}
    made = [*families._GAUGES, *families._COUNTERS]
    labels = {families._sanitize(one.instrument.name): families._sanitize(one.label or "") for one in made}
    found = PoolCollector().describe()
    assert written == {(one.name, one.type, labels.get(one.name.removesuffix("_seconds"), "")) for one in found}
    assert {name for *_, name in rows} == {
        instrument.name for instrument in vars(names).values() if isinstance(instrument, names.Instrument)
    }
