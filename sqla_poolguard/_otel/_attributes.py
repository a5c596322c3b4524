"""What a span, an event or a link says of a fact. No SQL, no parameters, and no message of anybody's but ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import format_span_id, format_trace_id

from sqla_poolguard._callsite import site_of
from sqla_poolguard._facts import Ending, Reason
from sqla_poolguard._finding import Cause, FindingKind
from sqla_poolguard._otel import _names as names
from sqla_poolguard._otel._code import full_name
from sqla_poolguard.errors import CheckoutError, DatabaseUnavailable

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from sqla_poolguard._course import Course, Giver
    from sqla_poolguard._facts import Holder, Rejection, Site, Wait
    from sqla_poolguard._gaps import Gap
    from sqla_poolguard._otel._spot import Spot
    from sqla_poolguard._tracing import Hold

__all__ = ["error", "gap", "giver", "hold", "holder", "is_holders_fault", "suppressed", "wait", "waiter"]

_UNKNOWN: Final = "(unknown)"
_NOBODYS: Final = frozenset({Reason.CONNECT_FAILED, Reason.UNAVAILABLE})

Attributes = dict[str, Any]


def is_holders_fault(reason: Reason, course: Course | None) -> bool:
    """Tell whether it was the holders for whom a request got nothing; not if it was connecting, or the database is down."""
    return reason not in _NOBODYS and (course is None or course.in_queue)


def wait(fact: Wait | Rejection, outcome: str, count: int) -> Attributes:
    """Describe a wait: who, how long, how it ended."""
    found = {names.POOL_NAME: fact.pool, names.WAIT_TIME: fact.waited, names.OUTCOME: outcome}
    return found | _code(fact.site) | suppressed(count)


def error(error: BaseException) -> Attributes:
    """Describe why a request got nothing, as far as it was computed."""
    found: Attributes = {names.ERROR_TYPE: _name_of(type(error))}
    if isinstance(error, CheckoutError) and error.verdict is not None:
        found[names.VERDICT] = str(error.verdict.cause)
        found[names.EVIDENCE] = error.verdict.evidence
        for remedy in error.verdict.remedies[:1]:
            found[names.REMEDY] = remedy
    elif isinstance(error, DatabaseUnavailable):
        found[names.VERDICT] = str(Cause.DATABASE_UNAVAILABLE)
        found[names.DATABASE_ERROR] = _name_of(type(error.__cause__ or error))
    return found


def giver(giver: Giver) -> Attributes:
    """Describe who gave the connection, or its slot."""
    return {names.HOLDER_SITE: str(site_of(giver.place) or _UNKNOWN), names.HOLDER_HELD: giver.held} | _spot(giver.spot)


def holder(holder: Holder, spot: Spot | None) -> Attributes:
    """Describe who holds a connection, and what it does."""
    found: Attributes = {names.HOLDER_SITE: str(holder.site or _UNKNOWN), names.HOLDER_HELD: holder.held}
    if holder.state is not None:
        found[names.HOLDER_STATE] = str(holder.state)
    if holder.current is not None:
        found[names.HOLDER_CURRENT] = str(holder.current)
    if holder.awaiting is not None:
        found[names.HOLDER_AWAITING] = holder.awaiting
    return found | _spot(spot)


def waiter(site: Site | None, context: SpanContext | None, waited: float, outcome: str) -> Attributes:
    """Describe to a holder who waited for it."""
    found = {names.WAIT_TIME: waited, names.OUTCOME: outcome, names.WAITER_SITE: str(site or _UNKNOWN)}
    if context is not None:
        found[names.WAITER_TRACE] = format_trace_id(context.trace_id)
        found[names.WAITER_SPAN] = format_span_id(context.span_id)
    return found


def hold(hold: Hold) -> Attributes:
    """Describe a hold: who, how long, what was found of it."""
    checkout = hold.checkout
    kinds = [*hold.found, FindingKind.LEAKED] if checkout.ending is Ending.LEAKED else hold.found
    found: Attributes = {
        names.POOL_NAME: checkout.pool,
        names.HELD: checkout.held,
        names.WAIT_TIME: checkout.waited,
        names.ENDING: str(checkout.ending),
        names.FOUND: [str(kind) for kind in kinds],
    }
    sampled = {
        names.IN_DATABASE: checkout.in_database,
        names.ELSEWHERE: checkout.elsewhere,
        names.IN_TRANSACTION: hold.in_transaction,
        names.GAPS_LEFT_OUT: hold.left_out or None,
    }
    return found | _code(checkout.site) | {key: value for key, value in sampled.items() if value is not None}


def gap(gap: Gap) -> Attributes:
    """Describe for how long a connection was seen idle, where, and what was awaited."""
    return {names.DURATION: gap.seconds, names.CURRENT: str(gap.current or _UNKNOWN), names.AWAITING: gap.awaiting or _UNKNOWN}


def suppressed(count: int) -> Attributes:
    """Say how many like it were not drawn."""
    return {names.SUPPRESSED: count} if count else {}


def _code(site: Site | None) -> Attributes:
    if site is None:
        return {}
    return {names.CODE_FILE: site.file, names.CODE_LINE: site.line, names.CODE_FUNCTION: full_name(site.file, site.function)}


def _spot(spot: Spot | None) -> Attributes:
    return {names.HOLDER_TRACE: spot.trace_id, names.HOLDER_SPAN: spot.span_id} if spot is not None else {}


def _name_of(kind: type[BaseException]) -> str:
    """Give the canonical name of an exception, as OpenTelemetry does."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
