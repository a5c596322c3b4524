"""Metrics as text: what is read of them, and what is left."""

from __future__ import annotations

import math

import pytest

from sqla_poolguard._cli.size.exposition import NAME, _totals
from sqla_poolguard._cli.size.trouble import SizeError

POOL = 'db_client_connection_pool_name="a {b} \\\\"c\\\\""'
PAGE = f"""\
# HELP {NAME} whatever
# TYPE {NAME} histogram
{NAME}_bucket{{{POOL},le="0.1"}} 3 # {{trace_id="x"}} 0.05 1700000000
{NAME}_bucket{{{POOL},le="+Inf"}} 5.0 1700000000
{NAME}_sum{{{POOL}}} 1.5
{NAME}_count{{{POOL}}} 5
{NAME}_bucket{{pid="2",{POOL},le="0.1"}} 1
{NAME}_bucket{{pid="2",{POOL},le="+Inf"}} 1
{NAME}_sum{{pid="2",{POOL}}} 0.05
something_else_bucket{{le="0.1"}} 99
"""


def test_buckets_of_all_processes_are_added_up():
    """Exemplars, times and labels with brackets and quotes are no obstacle."""
    totals = _totals(PAGE, None, "page")
    assert totals.buckets == {0.1: 4.0, math.inf: 6.0}
    assert (totals.count, totals.total) == (6.0, pytest.approx(1.55))
    histogram = totals.histogram()
    assert (histogram.bounds, histogram.counts) == ((0.1,), (4.0, 2.0))


def test_page_without_the_metric():
    """It is said which one is missing."""
    with pytest.raises(SizeError, match=f"page has no metric {NAME}"):
        _totals("up 1", None, "page")
