"""The small charts of the demo."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sqla_poolguard._cli.charts import bar, skyline
from sqla_poolguard._cli.demo.burst import Burst, Round
from sqla_poolguard._cli.demo.views import _BurstCharts


@pytest.mark.parametrize(
    ("value", "drawn"), [(0, ""), (100, "████"), (50, "██"), (3, "▏"), (0.0001, "▏"), (1000, "████"), (-1, "")]
)
def test_bar(value, drawn):
    """Length is proportional, something is seen of whatever is there, and nothing is longer than the width."""
    assert bar(value, 100, 4) == drawn


def test_plain_bar():
    """Without Unicode it is made of what there is."""
    assert bar(50, 100, 4, plain=True) == "##"
    assert bar(0.1, 100, 4, plain=True) == "#"


def test_bar_of_nothing():
    """Where even the longest is nothing, nothing is drawn."""
    assert bar(0, 0, 4) == ""


def test_skyline_shares_the_scale_of_time():
    """A run of half the time fills half the width."""
    assert skyline([(0.0, 15), (0.25, 15)], 1.0, 15, 8) == "███"
    assert skyline([(at / 8, 15) for at in range(4)], 1.0, 15, 8) == "████"


def test_skyline_heights():
    """Height is proportional; where there is no sample the last one holds."""
    assert skyline([(0.0, 0), (0.3, 8), (0.9, 15)], 1.0, 15, 4) == " ▄▄█"
    assert skyline([(0.0, 0), (0.3, 8), (0.9, 15)], 1.0, 15, 4, plain=True) == " ==#"


def test_skyline_of_nothing():
    """No samples, no line."""
    assert skyline([], 1.0, 15, 4) == ""


@pytest.mark.parametrize("columns", [39, 40, 50, 60, 80, 120])
def test_charts_are_as_wide_as_the_terminal_allows(columns):
    """In a narrow terminal they shrink, in proportion; in the narrowest there is none. Nothing is ever cut."""
    fast, slow = (Round(pool, 600, 600, 10.0, 0.5, 1.0, 15, 15, 15.0, ((0.0, 15),)) for pool in ("guarded", "stock"))
    console = Console(width=columns, record=True, file=io.StringIO())
    console.print(_BurstCharts(Burst((fast, slow)), plain=False))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines()), default=0) <= columns
    assert bool(text.strip()) == (columns >= 40)
