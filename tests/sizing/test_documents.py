"""What the documentation shows is what the command prints, and it leaves out no option."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sqla_poolguard._cli.size.command import size as command
from sqla_poolguard._version import own_version

DOCS = Path(__file__).parents[2] / "docs"
SHOWN = re.compile(r"^```console\n\$ poolguard size ([^\n]*)\n```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("options", "shown"), SHOWN.findall((DOCS / "how-to" / "size.md").read_text()))
def test_output_in_the_how_to(size, options, shown):
    """In eighty columns, letter by letter."""
    assert size.run(*shlex.split(options), COLUMNS="80").stdout == shown.replace("0.1.0", own_version(), 1)


def test_reference_lists_every_option():
    """And no other."""
    table = (DOCS / "reference" / "size.md").read_text().partition("## Formulas")[0]
    assert set(re.findall(r"`(--[a-z0-9-]+)", table)) == {name for option in command.params for name in option.opts}


def test_reference_lists_every_key_of_the_json(size):
    """And no other, but for that of an error."""
    table = (DOCS / "reference" / "size.md").read_text().partition("## JSON")[2]
    listed = {key for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    answer = size.answer("--rate", 100, "--hold", "30ms", "--max-connections", 100)
    assert listed == set(answer) - {"schema"} | {"error"}
    for key in ("load", "target", "server", "processes", "pool", "suggested"):
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{key}`"))
        assert set(re.findall(r"`(\w+)`", row.partition(" | ")[2])) >= set(answer[key]), key


def test_how_to_shows_something():
    """The pattern above still finds what it looks for."""
    assert len(SHOWN.findall((DOCS / "how-to" / "size.md").read_text())) == 2
