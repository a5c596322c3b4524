"""A span for a wait worth seeing, drawn when it is over. It draws no root, and tells neither SQL nor parameters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind, StatusCode, format_trace_id, get_current_span

from sqla_poolguard._otel import _names as names
from sqla_poolguard.errors import CheckoutError

if TYPE_CHECKING:
    from contextvars import Context

    from opentelemetry.trace import Span, Tracer

    from sqla_poolguard._facts import Rejection, Site, Wait

__all__ = ["WORTH_SEEING", "Spans", "trace_id_in"]

WORTH_SEEING: Final = 0.05
"""Seconds from which a wait that ended well gets a span."""


class Spans:
    """
    Draws spans with one tracer.

    A span is made when the wait is over, with explicit times, and only inside a span that is recorded:
    an ordinary checkout costs nothing, and one that nobody traces asks only who the parent is.
    Facts must be told in the context of the caller, and at once: a span ends now.
    """

    def __init__(self, tracer: Tracer, worth_seeing: float = WORTH_SEEING) -> None:
        """
        Draw with this tracer.

        Args:
            tracer: makes the spans.
            worth_seeing: seconds from which a wait that ended well is to be told.
        """
        self._tracer = tracer
        self.worth_seeing = worth_seeing

    def waited(self, wait: Wait) -> None:
        """Draw a wait that ended well."""
        if not get_current_span().is_recording():
            return
        attributes = _attributes(wait, names.GRANTED)
        attributes[names.QUEUE_TIME] = wait.queued
        attributes[names.WAITERS_AHEAD] = wait.ahead
        span, end = self._draw(wait, attributes)
        span.end(end)

    def rejected(self, rejection: Rejection) -> None:
        """Draw a wait that ended badly; when it was in vain, with the line that holds a connection the longest."""
        if not get_current_span().is_recording():
            return
        error = rejection.error
        attributes = _attributes(rejection, str(rejection.reason))
        attributes[names.ERROR_TYPE] = _name_of(type(error))
        description = None  # another's message may quote SQL and parameters
        if isinstance(error, CheckoutError):
            description = str(error).partition("\n")[0]
            for longest in error.snapshot.holders[:1]:
                attributes[names.HOLDER_SITE] = str(longest.site or "(unknown)")
                attributes[names.HOLDER_HELD] = longest.held
        span, end = self._draw(rejection, attributes)
        span.set_status(StatusCode.ERROR, description)
        span.end(end)

    def _draw(self, fact: Wait | Rejection, attributes: dict[str, Any]) -> tuple[Span, int]:
        """Begin a span that is over already, and tell when it has to end, in nanoseconds of the wall clock."""
        end = time.time_ns()
        start = end - int(fact.waited * 1e9)
        # INTERNAL: nothing remote is called, and a CLIENT span would be counted as a call of the database
        span = self._tracer.start_span(
            names.acquire_span(fact.pool), kind=SpanKind.INTERNAL, attributes=attributes, start_time=start
        )
        return span, end


def _attributes(fact: Wait | Rejection, outcome: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {names.POOL_NAME: fact.pool, names.WAIT_TIME: fact.waited, names.OUTCOME: outcome}
    site: Site | None = fact.site
    if site is not None:
        attributes[names.CODE_FILE] = site.file
        attributes[names.CODE_LINE] = site.line
        attributes[names.CODE_FUNCTION] = site.function
    return attributes


def _name_of(kind: type[BaseException]) -> str:
    """Give the canonical name of an exception, as OpenTelemetry does."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def trace_id_in(context: Context) -> str | None:
    """Tell in which trace a context is, in 32 hexadecimal digits; None outside of one."""
    try:
        found = context.run(get_current_span).get_span_context()
    except RuntimeError:  # it is entered already: the task runs
        return None
    return format_trace_id(found.trace_id) if found.is_valid else None
