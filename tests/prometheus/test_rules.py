"""The rules pass Prometheus' own tools, and each alert fires when it should, and not before, and for no other pool."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from doubles.expressions import ALERTS
from doubles.scraper import promtool

from sqla_poolguard.prometheus import rules

DOCS = Path(__file__).parents[2] / "docs"
TARGET = {"job": "shop", "instance": "a", "namespace": "eu"}
COUNT, MAX = "db_client_connection_count", "db_client_connection_max"
WAITS, CREATED = "db_client_connection_wait_time_seconds", "db_client_connection_create_time_seconds"
STILL = "0+0x60"


class Case(NamedTuple):
    """How an alert is provoked."""

    series: dict[str, tuple[str, str]]
    """By metric and labels, the values of a pool that is bad and of one that is good, one a minute."""
    quiet: str
    """Until when it must not fire."""
    fires: str
    """By when it must."""
    value: str = ""
    """What it says of the value."""


def counter(metric, bad, labels="", *, good=STILL):
    """Give the series of a counter."""
    return {f"{metric}{{{labels}}}": (bad, good)}


BUCKETS = {
    f'{WAITS}_bucket{{le="{le}"}}': (bad, good)
    for le, bad, good in (("0.1", "0+0x60", "0+60x60"), ("0.5", "0+0x60", "0+60x60"), ("1.0", "0+60x60", "0+60x60"))
} | {f'{WAITS}_bucket{{le="+Inf"}}': ("0+60x60", "0+60x60")}

CASES = {
    "PoolguardBreakerOpen": Case(
        {
            'poolguard_breaker_state{poolguard_state="open"}': ("0x10 1x50", "0x10 1 0x49"),
            'poolguard_breaker_state{poolguard_state="half_open"}': (STILL, STILL),
            'poolguard_breaker_state{poolguard_state="closed"}': ("1x10 0x50", "1x10 0 1x49"),
        },
        quiet="11m",
        fires="13m",
    ),
    "PoolguardTimeouts": Case(counter("db_client_connection_timeouts_total", "0x10 3x50"), "10m", "12m", "3"),
    "PoolguardDeadlock": Case(
        {
            **counter("poolguard_rejections_total", "0x10 1x50", 'poolguard_reason="deadlock"'),
            **counter("poolguard_rejections_total", STILL, 'poolguard_reason="timeout"', good="0+5x60"),
        },
        "10m",
        "12m",
    ),
    "PoolguardLeaks": Case(
        counter("poolguard_leaks_total", "0x20 2x40", 'poolguard_kind="garbage_collected"'), "20m", "22m", "2"
    ),
    "PoolguardWaiting": Case(
        {"db_client_connection_pending_requests{}": ("0x10 4x50", "0x10 4 4 4 0 4 4 4 0 4 4 4 0 0x40")}, "14m", "16m"
    ),
    "PoolguardSlowCheckouts": Case(BUCKETS, "4m", "12m", "975ms"),
    "PoolguardSaturated": Case(
        {f'{COUNT}{{db_client_connection_state="used"}}': ("19x60", "17x60"), f"{MAX}{{}}": ("20x60", "20x60")},
        "8m",
        "15m",
        "95%",
    ),
    "PoolguardHeldAcrossAwait": Case(
        {
            "poolguard_connection_foreign_await_time_seconds_total{}": ("0+300x60", "0+60x60"),
            f"{MAX}{{}}": ("10x60", "10x60"),
        },
        "8m",
        "20m",
        "50%",
    ),
    "PoolguardRejections": Case(
        {
            **counter("poolguard_rejections_total", "0+6x60", 'poolguard_reason="queue_full"'),
            **counter("poolguard_rejections_total", "0+6x60", 'poolguard_reason="rejected"'),
            **counter("poolguard_rejections_total", STILL, 'poolguard_reason="cancelled"', good="0+6x60"),
        },
        "4m",
        "15m",
        "60",
    ),
    "PoolguardWouldReject": Case(counter("poolguard_would_reject_total", "0+2x60"), "10m", "40m", "30"),
    "PoolguardConnectChurn": Case(
        {
            f"{CREATED}_count{{}}": ("0+120x60", "0+120x60"),
            f"{WAITS}_count{{}}": ("0+240x60", "0+2400x60"),
        },
        "12m",
        "25m",
        "2",
    ),
}


def series_of(case, scope):
    """Give the input of promtool."""
    for selector, values in case.series.items():
        metric, _, labels = selector.rstrip("}").partition("{")
        for pool, history in zip(("bad", "good"), values, strict=True):
            names = {**TARGET, **scope, "db_client_connection_pool_name": pool}
            words = ", ".join([labels] * bool(labels) + [f'{name}="{value}"' for name, value in names.items()])
            yield {"series": f"{metric}{{{words}}}", "values": history}


def expected(name, case):
    """Give the alert as promtool will see it."""
    rule = ALERTS[name]
    words = {
        key: re.sub(r"{{ \$value.*?}}", case.value, text).replace("{{ $labels.db_client_connection_pool_name }}", "bad")
        for key, text in rule["annotations"].items()
    }
    return {"exp_labels": {**TARGET, "db_client_connection_pool_name": "bad", **rule["labels"]}, "exp_annotations": words}


def test_rules_are_valid(tmp_path):
    """`promtool check rules` has nothing to say."""
    file = tmp_path / "rules.yml"
    file.write_text(rules())
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case():
    """A new alert is tried out."""
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize(
    "scope", [{}, {"otel_scope_name": "sqla_poolguard", "otel_scope_version": "1"}], ids=["native", "OpenTelemetry"]
)
def test_alerts_fire_when_they_should(tmp_path, scope):
    """`promtool test rules`: not at first, then for the pool that is bad, and at no time for the one that is good."""
    (tmp_path / "rules.yml").write_text(rules())
    tests = [
        {
            "interval": "1m",
            "input_series": list(series_of(case, scope)),
            "alert_rule_test": [
                {"eval_time": case.quiet, "alertname": name, "exp_alerts": []},
                {"eval_time": case.fires, "alertname": name, "exp_alerts": [expected(name, case)]},
            ],
        }
        for name, case in CASES.items()
    ]
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_upgrade_begins_no_new_series(tmp_path):
    """Another version of this package in OpenTelemetry's scope is the same pool: no alert is told twice or lost."""
    (tmp_path / "rules.yml").write_text(rules())
    case = CASES["PoolguardSaturated"]
    before = [{**one, "values": "19x30"} for one in series_of(case, {"otel_scope_version": "1"}) if "used" in one["series"]]
    after = [{**one, "values": "_x30 19x30"} for one in series_of(case, {"otel_scope_version": "2"}) if "used" in one["series"]]
    limits = [one for one in series_of(case, {"otel_scope_version": "1"}) if MAX in one["series"]]
    pools = [one for one in (*before, *after, *limits) if "bad" in one["series"]]
    test = {
        "interval": "1m",
        "input_series": pools,
        "alert_rule_test": [
            {"eval_time": "45m", "alertname": "PoolguardSaturated", "exp_alerts": [expected("PoolguardSaturated", case)]}
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_to_do(alert):
    """Each has a summary, a description, a severity, and a section of the documentation that exists."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert {"summary", "description", "runbook"} == rule["annotations"].keys()
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (DOCS.parent / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
