"""
What telemetry is called: every name, unit and description, in one place. It measures nothing.

Metrics follow OpenTelemetry's semantic conventions for database client connection pools, `SEMCONV_VERSION`,
where all of them are still marked "development". What the conventions have no name for is called `poolguard.*`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqla_poolguard._durations import SECONDS_BUCKETS

__all__ = [
    "BREAKER_STATE",
    "CONNECTION_COUNT",
    "CONNECTION_CREATE_TIME",
    "CONNECTION_IDLE_MAX",
    "CONNECTION_IDLE_MIN",
    "CONNECTION_MAX",
    "CONNECTION_PENDING_REQUESTS",
    "CONNECTION_TIMEOUTS",
    "CONNECTION_USE_TIME",
    "CONNECTION_WAIT_TIME",
    "FOREIGN_AWAIT_TIME",
    "LEAKS",
    "REJECTIONS",
    "SCHEMA_URL",
    "SCOPE",
    "SECONDS_BUCKETS",
    "SEMCONV_VERSION",
    "SPANS_SUPPRESSED",
    "WOULD_REJECT",
    "Instrument",
]

SEMCONV_VERSION: Final = "1.44.0"
SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{SEMCONV_VERSION}"
SCOPE: Final = "sqla_poolguard"
"""Name of the instrumentation scope: of our meter and our tracer."""


class Instrument(NamedTuple):
    """What a metric is called."""

    name: str
    unit: str
    description: str


CONNECTION_COUNT: Final = Instrument(
    "db.client.connection.count",
    "{connection}",
    "The number of connections that are currently in state described by the `state` attribute.",
)
CONNECTION_IDLE_MAX: Final = Instrument(
    "db.client.connection.idle.max", "{connection}", "The maximum number of idle open connections allowed."
)
CONNECTION_IDLE_MIN: Final = Instrument(
    "db.client.connection.idle.min", "{connection}", "The minimum number of idle open connections allowed."
)
CONNECTION_MAX: Final = Instrument("db.client.connection.max", "{connection}", "The maximum number of open connections allowed.")
CONNECTION_PENDING_REQUESTS: Final = Instrument(
    "db.client.connection.pending_requests", "{request}", "The number of current pending requests for an open connection."
)
CONNECTION_TIMEOUTS: Final = Instrument(
    "db.client.connection.timeouts",
    "{timeout}",
    "The number of connection timeouts that have occurred trying to obtain a connection from the pool.",
)
CONNECTION_CREATE_TIME: Final = Instrument(
    "db.client.connection.create_time", "s", "The time it took to create a new connection."
)
CONNECTION_WAIT_TIME: Final = Instrument(
    "db.client.connection.wait_time", "s", "The time it took to obtain an open connection from the pool."
)
CONNECTION_USE_TIME: Final = Instrument(
    "db.client.connection.use_time", "s", "The time between borrowing a connection and returning it to the pool."
)
FOREIGN_AWAIT_TIME: Final = Instrument(
    "poolguard.connection.foreign_await_time",
    "s",
    "The connection-seconds for which connections were idle while their holders awaited something else than the database; sampled.",
)
LEAKS: Final = Instrument(
    "poolguard.leaks", "{connection}", "The number of connections that were not given back, by `poolguard.kind`."
)
REJECTIONS: Final = Instrument(
    "poolguard.rejections", "{request}", "The number of requests that got no connection, by `poolguard.reason`."
)
WOULD_REJECT: Final = Instrument(
    "poolguard.would_reject",
    "{request}",
    "The number of requests that `fail_fast=True` would have turned away, while it only observes.",
)
BREAKER_STATE: Final = Instrument(
    "poolguard.breaker.state", "{breaker}", "1 for the state in which the breaker on connecting is, by `poolguard.state`, else 0."
)

SPANS_SUPPRESSED: Final = Instrument(
    "poolguard.spans_suppressed",
    "{span}",
    "The number of spans and span events that were not drawn, since their line had too many.",
)

POOL_NAME: Final = "db.client.connection.pool.name"
STATE: Final = "db.client.connection.state"
IDLE: Final = "idle"
USED: Final = "used"

ERROR_TYPE: Final = "error.type"
CODE_FILE: Final = "code.file.path"
CODE_LINE: Final = "code.line.number"
CODE_FUNCTION: Final = "code.function.name"

OUTCOME: Final = "poolguard.outcome"
"""How a wait ended: `granted`, or why not, as in `Reason`."""
GRANTED: Final = "granted"
HANDED_OVER: Final = "handed_over"
"""What a holder is told who has given its connection, or its slot, to a waiter: it may still be cancelled, or fail to connect."""
REASON: Final = "poolguard.reason"
"""Why a request got no connection, as in `Reason`."""


WAIT_TIME: Final = "poolguard.wait_time"
"""Seconds from asking to the end, good or bad: queue, connect and ping together."""
QUEUE_TIME: Final = "poolguard.queue_time"
"""Seconds of it spent in the queue."""
WAITERS_AHEAD: Final = "poolguard.waiters_ahead"
"""Waiters ahead when it came."""
DURATION: Final = "poolguard.duration"
"""Seconds that a phase took, or for which a gap was seen."""
VERDICT: Final = "poolguard.verdict.cause"
"""Why the pool was exhausted, as in `Cause`."""
EVIDENCE: Final = "poolguard.verdict.evidence"
"""The figures on which that rests."""
REMEDY: Final = "poolguard.verdict.remedy"
"""What helps most surely."""
DATABASE_ERROR: Final = "poolguard.database_error"
"""The type of the last error of connecting, while the database cannot be reached."""
KIND: Final = "poolguard.kind"
"""How a leak was noticed, as in `LeakKind`."""
BREAKER: Final = "poolguard.state"
"""What a breaker lets requests do, as in `BreakerState`."""
HOLDER_SITE: Final = "poolguard.holder.site"
"""Which line held, or holds the longest, as `file:line in function`."""
HOLDER_HELD: Final = "poolguard.holder.held"
"""Seconds for which it has held."""
HOLDER_TRACE: Final = "poolguard.holder.trace_id"
HOLDER_SPAN: Final = "poolguard.holder.span_id"
HOLDER_STATE: Final = "poolguard.holder.state"
"""What it does, as in `HolderState`."""
HOLDER_CURRENT: Final = "poolguard.holder.current"
"""The line at which it is."""
HOLDER_AWAITING: Final = "poolguard.holder.awaiting"
"""What it awaits there."""
WAITER_SITE: Final = "poolguard.waiter.site"
"""Which line waited, as `file:line in function`."""
WAITER_TRACE: Final = "poolguard.waiter.trace_id"
WAITER_SPAN: Final = "poolguard.waiter.span_id"
HELD: Final = "poolguard.held"
"""Seconds for which a connection was held."""
IN_DATABASE: Final = "poolguard.in_database"
"""Of these, seconds in the database; sampled."""
ELSEWHERE: Final = "poolguard.elsewhere"
"""Of these, seconds awaiting something else; sampled."""
ENDING: Final = "poolguard.ending"
"""How the hold ended, as in `Ending`."""
FOUND: Final = "poolguard.found"
"""What was found of it, as in `FindingKind`."""
IN_TRANSACTION: Final = "poolguard.in_transaction"
"""Whether a transaction was open when the connection was seen last."""
CURRENT: Final = "poolguard.current"
"""The line that awaited."""
AWAITING: Final = "poolguard.awaiting"
"""What it awaited."""
GAPS_LEFT_OUT: Final = "poolguard.gaps_left_out"
"""Gaps for which there is no event: those drawn are the longest."""
SUPPRESSED: Final = "poolguard.suppressed"
"""How many like it were not drawn since the last one that was."""

LINK: Final = "poolguard.link"
"""What a link leads to: `holder` or `waiter`."""
HOLDER: Final = "holder"
WAITER: Final = "waiter"

BLOCKED_WAITER: Final = "poolguard.blocked_waiter"
"""The event on the span of a holder for whose connection somebody waited."""
LONGEST_HOLDER: Final = "poolguard.longest_holder"
"""The event that tells who has held a connection for the longest time."""
IDLE_GAP: Final = "poolguard.idle"
"""The event of a gap: the connection was idle while its holder awaited something else."""


def acquire_span(pool: str) -> str:
    """Name the span of a wait for a connection."""
    return f"pool.acquire {pool}"


def hold_span(pool: str) -> str:
    """Name the span of a hold."""
    return f"pool.hold {pool}"


def phase_event(phase: str) -> str:
    """Name the event of a phase of a wait: `queue`, `connect` or `ping`."""
    return f"poolguard.{phase}"
