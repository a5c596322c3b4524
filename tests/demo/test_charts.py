"""The small charts of the demo."""

from __future__ import annotations

import pytest

from sqla_poolguard._cli.demo.charts import bar, skyline


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
