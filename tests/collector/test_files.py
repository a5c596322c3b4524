"""What comes with the package can be had from the command line and from Python."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner

from sqla_poolguard._cli.command import poolguard
from sqla_poolguard.prometheus import dashboard, rules


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
