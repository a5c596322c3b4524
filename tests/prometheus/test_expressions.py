"""Every expression of the rules and of the dashboard is put to a real Prometheus: it knows the metrics and labels, and has answers."""

from __future__ import annotations

import re

import pytest
from doubles.expressions import ALERTS, RECORDS, asked_by, panels, variables

JOBS = ["native", "otel"]
SCOPE = {"otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}
IN_TROUBLE = {
    "PoolguardBreakerOpen": "away",
    "PoolguardTimeouts": "busy",
    "PoolguardDeadlock": "nested",
    "PoolguardLeaks": "calm",
    "PoolguardHeldAcrossAwait": "busy",
    "PoolguardRejections": "strict",
    "PoolguardWouldReject": "busy",
}
"""What the service does wrong, with which of its pools."""
EXACT = (
    "poolguard_rejections_total",
    "poolguard_leaks_total",
    "poolguard_breaker_state",
    "db_client_connection_timeouts_total",
    "poolguard_would_reject_total",
    "poolguard_connection_foreign_await_time_seconds_total",
    *(
        f"db_client_connection_{name}_time_seconds_{part}"
        for name in ("wait", "use", "create")
        for part in ("bucket", "count", "sum")
    ),
    "db_client_connection_count",
    "db_client_connection_max",
    "db_client_connection_idle_max",
    "db_client_connection_idle_min",
    "db_client_connection_pending_requests",
)


def without_thresholds(expression):
    """Let an alert's expression be true for whatever it compares."""
    return re.sub(r"> (?=[\d.])", ">= -1 * ", expression)


def lately(expression):
    """Look at the last seconds where an expression looks at minutes, and at what a record is made of: the service is young."""
    for record, made_of in RECORDS.items():
        expression = expression.replace(record, f"({made_of})")
    return re.sub(r"\[\d+m\]", "[10s]", expression)


def every_expression():
    """Give every expression there is, with a name for it."""
    yield from RECORDS.items()
    yield from ((name, alert["expr"]) for name, alert in ALERTS.items())
    for number, panel in enumerate(panels("native|otel")):
        yield f"{number} {panel.title}", panel.expression
    for name, (series, label) in variables("native|otel").items():
        yield f"variable {name}", f"count by ({label}) ({series})"


EXPRESSIONS = dict(every_expression())


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_metric_and_label_exists(scraper, name):
    """What an expression reads is there, and so is every label it selects or groups by; OpenTelemetry's own may be missing."""
    for metric, labels in asked_by(EXPRESSIONS[name]):
        known = set(scraper.get("labels", **{"match[]": metric}))
        assert known, f"no metric {metric}"
        assert labels - SCOPE <= known, f"{metric} has no {labels - SCOPE - known}"


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("number", range(len(panels("native"))), ids=lambda number: panels("native")[number].title)
def test_every_panel_shows_something(scraper, job, number):
    """Each query of the dashboard has an answer, whichever way the metrics come."""
    assert scraper.query(panels(job)[number].expression)


@pytest.mark.parametrize("job", JOBS)
def test_every_variable_has_values(scraper, job):
    """Job, instance and pool can be chosen."""
    found = {
        name: {series["metric"][label] for series in scraper.query(f"count by ({label}) ({selector})")}
        for name, (selector, label) in variables(job).items()
    }
    assert found["job"] == set(JOBS)
    assert found["pool"] == {"busy", "strict", "nested", "calm", "away"}
    assert len(found["instance"]) == 1


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_is_written(scraper, record):
    """Prometheus has evaluated each recording rule, for both jobs."""
    assert {series["metric"]["job"] for series in scraper.query(record)} == set(JOBS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_looks_at_something(scraper, alert):
    """But for its threshold each alert has an answer for both jobs: none is silent because it looks at nothing."""
    answer = scraper.query(without_thresholds(ALERTS[alert]["expr"]))
    assert {series["metric"]["job"] for series in answer} == set(JOBS)


@pytest.mark.parametrize("alert", IN_TROUBLE)
def test_trouble_is_seen(scraper, alert):
    """What goes wrong in the service is what the alert for it names, whichever way the metrics come."""

    def accused():
        return {
            (series["metric"]["job"], series["metric"]["db_client_connection_pool_name"])
            for series in scraper.query(lately(ALERTS[alert]["expr"]))
        }

    scraper.until(lambda: {(job, IN_TROUBLE[alert]) for job in JOBS} <= accused())


def test_alerts_fire(scraper):
    """Prometheus itself fires those that need no patience, with everything filled in that their words speak of."""

    def firing():
        return {
            alert["labels"]["alertname"]: alert["annotations"]
            for alert in scraper.get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    scraper.until(lambda: {"PoolguardTimeouts", "PoolguardDeadlock", "PoolguardLeaks"} <= firing().keys())
    for words in firing().values():
        assert not [text for text in words.values() if "{{" in text or "<no value>" in text]


def test_rules_have_no_errors(scraper):
    """No rule has failed since Prometheus began."""
    rules = [rule for group in scraper.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RECORDS) + len(ALERTS)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_both_ways_tell_the_same(shop, scraper):
    """When the service is quiet our collector and OpenTelemetry's exporter agree on every figure, though both count the same samples."""
    shop.calm_down()
    for metric in EXACT:
        ours, theirs = (
            f'sum without (job, instance, otel_scope_name, otel_scope_version, otel_scope_schema_url) ({metric}{{job="{job}"}})'
            for job in JOBS
        )
        scraper.until(lambda ours=ours, theirs=theirs: not scraper.query(f"abs(({ours}) - ({theirs})) > 1e-6 * abs({ours})"))
        assert scraper.query(f"({ours}) != 0 unless ({theirs})") == [], "only our collector shows what is still 0"
        assert scraper.query(f"({theirs}) unless ({ours})") == []
        assert scraper.query(f"({ours}) == ({theirs})") or metric.endswith(("_sum", "seconds_total")), metric
