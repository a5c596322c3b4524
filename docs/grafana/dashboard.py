"""
Builds the Grafana dashboard that comes with the package.

`python docs/grafana/dashboard.py` prints it; `--write` puts it where the package has it. It needs `grafana-foundation-sdk`, of the test extra.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as query
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model

FILE = Path(__file__).parents[2] / "sqla_poolguard" / "_prometheus" / "dashboard.json"

POOL = "db_client_connection_pool_name"
CHOSEN = f'job=~"$job", instance=~"$instance", {POOL}=~"$pool"'
SOURCE = model.DataSourceRef("prometheus", "${datasource}")
QUANTILES = (0.5, 0.95, 0.99)
HALF, WIDTH, STATS = 12, 24, 6


class Line(NamedTuple):
    """One query and what it is called."""

    expression: str
    legend: str = "{{" + POOL + "}}"


def now(metric: str, *more: str) -> str:
    """Select what is chosen above."""
    return f"{metric}{{{', '.join((CHOSEN, *more))}}}"


def per_second(metric: str, *more: str) -> str:
    """Tell how fast a counter grows."""
    return f"rate({now(metric, *more)}[$__rate_interval])"


def by_pool(expression: str, *more: str, how: str = "sum") -> str:
    """Put the instances of a pool together."""
    return f"{how} by ({', '.join((POOL, *more))}) ({expression})"


def of_what_may_be_open(expression: str) -> str:
    """Relate connections to the pool's limit."""
    return f"{by_pool(expression)} / {by_pool(now('db_client_connection_max'))}"


def quantiles(metric: str) -> list[Line]:
    """Tell the median and what is seldom exceeded."""
    buckets = by_pool(per_second(f"{metric}_bucket"), "le")
    return [Line(f"histogram_quantile({q}, {buckets})", f"p{q * 100:.0f} {{{{{POOL}}}}}") for q in QUANTILES]


USED = now("db_client_connection_count", 'db_client_connection_state="used"')
IDLE = now("db_client_connection_count", 'db_client_connection_state="idle"')
DOWN = now("poolguard_breaker_state", 'poolguard_state=~"open|half_open"')
FOREIGN = per_second("poolguard_connection_foreign_await_time_seconds_total")


def glance(title: str, words: str, unit: str, expression: str, *steps: tuple[float, str]) -> stat.Panel:
    """Show one figure for each pool, in colour."""
    thresholds = [model.Threshold(None, "green"), *(model.Threshold(*step) for step in steps)]
    return (
        stat.Panel()
        .title(title)
        .description(words)
        .datasource(SOURCE)
        .unit(unit)
        .span(WIDTH // STATS)
        .height(5)
        .thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds))
        .color_mode(looks.BigValueColorMode.BACKGROUND)
        .graph_mode(looks.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(query.Dataquery().expr(expression).legend_format(Line("").legend).instant().ref_id("A").datasource(SOURCE))
    )


def curve(title: str, words: str, unit: str, *lines: Line, span: int = HALF) -> timeseries.Panel:
    """Show how something changes."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(words)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(span)
        .height(8)
        .line_width(1)
        .fill_opacity(8)
        .show_points(looks.VisibilityMode.NEVER)
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    )
    for number, line in enumerate(lines):
        target = query.Dataquery().expr(line.expression).legend_format(line.legend).range().ref_id("ABCDEFGH"[number])
        panel = panel.with_target(target.datasource(SOURCE))
    return panel


def choice(name: str, label: str, words: str, values: str) -> build.QueryVariable:
    """Let the reader choose among the values of a label."""
    return (
        build.QueryVariable(name)
        .label(label)
        .description(words)
        .datasource(SOURCE)
        .query(values)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def dashboard() -> model.Dashboard:
    """Build it."""
    limits = "db_client_connection_max"  # a pool without a limit has none; idle.min is there for each
    anywhere = "db_client_connection_idle_min"
    made = (
        build.Dashboard("Connection pools (sqla-poolguard)")
        .uid("sqla-poolguard")
        .description("Who waits for a connection, how long, and why. Metrics: sqla-poolguard, docs/reference/telemetry.md")
        .tags(["sqlalchemy", "postgresql", "connection pool"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(choice("job", "Job", "Which service", f"label_values({anywhere}, job)"))
        .with_variable(choice("instance", "Instance", "Which process", f'label_values({anywhere}{{job=~"$job"}}, instance)'))
        .with_variable(
            choice("pool", "Pool", "Which pool", f'label_values({anywhere}{{job=~"$job", instance=~"$instance"}}, {POOL})')
        )
        .with_row(build.Row("At a glance"))
        .with_panel(
            glance(
                "In use",
                "Of the connections that the pool may have, those that somebody holds.",
                "percentunit",
                of_what_may_be_open(USED),
                (0.75, "orange"),
                (0.95, "red"),
            )
        )
        .with_panel(
            glance(
                "Waiting now",
                "Requests that have no connection yet.",
                "short",
                by_pool(now("db_client_connection_pending_requests")),
                (1, "orange"),
                (10, "red"),
            )
        )
        .with_panel(
            glance(
                "Wait, p95",
                "One in twenty requests waits longer.",
                "s",
                quantiles("db_client_connection_wait_time_seconds")[1].expression,
                (0.1, "orange"),
                (0.5, "red"),
            )
        )
        .with_panel(
            glance(
                "Timeouts",
                "Requests that got no connection in time, in the range shown.",
                "short",
                by_pool(f"increase({now('db_client_connection_timeouts_total')}[$__range])"),
                (0.5, "red"),
            )
        )
        .with_panel(
            glance(
                "Leaks",
                "Connections that were not given back, in the range shown.",
                "short",
                by_pool(f"increase({now('poolguard_leaks_total')}[$__range])"),
                (0.5, "red"),
            )
        )
        .with_panel(
            glance(
                "Database away",
                "Processes whose breaker on connecting is not closed.",
                "short",
                by_pool(DOWN),
                (1, "red"),
            )
        )
        .with_row(build.Row("Who waits, and how long"))
        .with_panel(
            curve(
                "Connections",
                "Open ones, and how many there may be at most. Used ones at the limit: the next request waits.",
                "short",
                Line(by_pool(USED), f"used {{{{{POOL}}}}}"),
                Line(by_pool(IDLE), f"idle {{{{{POOL}}}}}"),
                Line(by_pool(now(limits)), f"limit {{{{{POOL}}}}}"),
            )
        )
        .with_panel(
            curve(
                "Requests waiting",
                "For a connection that comes back, or to connect.",
                "short",
                Line(by_pool(now("db_client_connection_pending_requests"))),
            )
        )
        .with_panel(
            curve(
                "Wait time",
                "From asking to having: queue, connect and ping. It is part of every answer.",
                "s",
                *quantiles("db_client_connection_wait_time_seconds"),
            )
        )
        .with_panel(
            curve(
                "Requests served",
                "Connections handed out each second.",
                "reqps",
                Line(by_pool(per_second("db_client_connection_wait_time_seconds_count"))),
            )
        )
        .with_row(build.Row("Who holds, and for what"))
        .with_panel(
            curve(
                "Use time",
                "From having to giving back. What is long here makes others wait.",
                "s",
                *quantiles("db_client_connection_use_time_seconds"),
            )
        )
        .with_panel(
            curve(
                "Held while awaiting something else",
                "Of the connections that the pool may have, those that are idle while their holder awaits an HTTP call, a lock, a queue ... "
                "The log and snapshot().waste name the lines.",
                "percentunit",
                Line(of_what_may_be_open(FOREIGN)),
            )
        )
        .with_panel(
            curve(
                "Leaks",
                "Connections that were not given back, by how that was noticed; the log names the line.",
                "short",
                Line(
                    by_pool(f"increase({now('poolguard_leaks_total')}[$__rate_interval])", "poolguard_kind"),
                    f"{{{{poolguard_kind}}}} {{{{{POOL}}}}}",
                ),
            )
        )
        .with_panel(
            curve(
                "Connections in use, on average",
                "Connection-seconds per second, and how many of them awaited something else than the database.",
                "short",
                Line(by_pool(f"avg_over_time({USED}[$__rate_interval])"), f"in use {{{{{POOL}}}}}"),
                Line(by_pool(FOREIGN), f"awaiting something else {{{{{POOL}}}}}"),
            )
        )
        .with_row(build.Row("Who gets none"))
        .with_panel(
            curve(
                "Requests that got no connection",
                "By reason: timeout, deadline, rejected, queue_full, deadlock, unavailable, cancelled, connect_failed.",
                "reqps",
                Line(
                    by_pool(per_second("poolguard_rejections_total"), "poolguard_reason"),
                    f"{{{{poolguard_reason}}}} {{{{{POOL}}}}}",
                ),
            )
        )
        .with_panel(
            curve(
                "Would have been rejected",
                "Requests that fail_fast=True would have turned away, while it only observes; and those that timed out.",
                "reqps",
                Line(by_pool(per_second("poolguard_would_reject_total")), f"would reject {{{{{POOL}}}}}"),
                Line(by_pool(per_second("db_client_connection_timeouts_total")), f"timed out {{{{{POOL}}}}}"),
            )
        )
        .with_row(build.Row("The database"))
        .with_panel(
            curve(
                "Connections opened",
                "Each second. Many of them: overflow that comes and goes, recycling, or connections that break.",
                "cps",
                Line(by_pool(per_second("db_client_connection_create_time_seconds_count"))),
            )
        )
        .with_panel(
            curve(
                "Time to connect",
                "TCP, TLS, login and what the driver does first.",
                "s",
                *quantiles("db_client_connection_create_time_seconds"),
            )
        )
        .with_panel(
            curve(
                "Breaker",
                "Processes whose breaker on connecting is closed (all is well), open (a probe is armed) or half open (it is under way).",
                "short",
                Line(by_pool(now("poolguard_breaker_state"), "poolguard_state"), f"{{{{poolguard_state}}}} {{{{{POOL}}}}}"),
                span=WIDTH,
            )
        )
    )
    return made.build()


def text() -> str:
    """Give it as it is checked in."""
    return json.dumps(dashboard(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text(), encoding="utf-8")
    else:
        sys.stdout.write(text())
