"""Where in a trace somebody works, found without the help of whoever works there. It keeps no span alive and takes no lock."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)

from sqla_poolguard._awaits import task_context
from sqla_poolguard._callsite import this_task

if TYPE_CHECKING:
    from asyncio import Task
    from contextvars import Context

    from opentelemetry.trace import Span

__all__ = ["Spot", "here", "last_spot", "spot_of", "trace_id_in"]


class Spot:
    """A span that is recorded, or was: one that has ended can still be linked to, and have children."""

    __slots__ = ("_around", "_began", "_span", "context")

    def __init__(self, span: Span, context: SpanContext) -> None:
        self.context = context
        began, around = getattr(span, "start_time", None), getattr(span, "parent", None)
        # the API knows neither: another SDK may have something else under these names
        self._began = began if isinstance(began, int) else 0
        self._around = around if isinstance(around, SpanContext) else None
        self._span: Any
        try:
            self._span = weakref.ref(span)
        except TypeError:  # another SDK's
            self._span = lambda: span

    @property
    def trace_id(self) -> str:
        """The trace, in 32 hexadecimal digits."""
        return format_trace_id(self.context.trace_id)

    @property
    def span_id(self) -> str:
        """The span, in 16 hexadecimal digits."""
        return format_span_id(self.context.span_id)

    def since(self, seconds: float) -> Spot:
        """
        Give the span around this one if this one has begun later than so many seconds ago.

        Of that one nothing is known but where it is: an SDK's span does not lead to its parent.
        """
        around = self._around
        if around is None or not around.is_valid or time.time_ns() - self._began >= seconds * 1e9:
            return self
        return Spot(NonRecordingSpan(around), around)

    def open_span(self) -> Span | None:
        """Give the span if it is still being recorded."""
        span: Span | None = self._span()
        return span if span is not None and span.is_recording() else None

    def as_parent(self) -> TraceContext:
        """Give a context in which a span becomes a child of this one."""
        return set_span_in_context(NonRecordingSpan(self.context), TraceContext())


def here() -> Spot | None:
    """Tell where the running code is; None if that is not recorded."""
    return _spot(get_current_span())


def last_spot(seen: Spot | None, held: float) -> Spot | None:
    """
    Tell where a lease is held that is given back here.

    Args:
        seen: where its holder was seen.
        held: seconds for which it is held: a span that began later is a step of the holder's, say around its commit.
    """
    now = here()
    last = now if now is not None and (seen is None or now.trace_id == seen.trace_id) else seen
    if last is None:
        return None
    return next((spot for spot in (last, seen) if spot is not None and spot.since(held) is spot), last.since(held))


def spot_of(task: Task[Any] | None) -> Spot | None:
    """Tell where a task is; None if that is not recorded, or cannot be told."""
    context = task_context(task) if task is not None else None
    if context is not None:
        return _spot(_span_in(context))
    return here() if task is not None and task is this_task() else None  # before Python 3.12 a running task does not tell


def trace_id_in(context: Context) -> str | None:
    """Tell in which trace a context is, in 32 hexadecimal digits; None outside of one."""
    found = _span_in(context).get_span_context()
    return format_trace_id(found.trace_id) if isinstance(found, SpanContext) and found.is_valid else None


def _span_in(context: Context) -> Span:
    return context.copy().run(get_current_span)  # a copy: the context itself is entered while its task runs


def _spot(span: Span) -> Spot | None:
    recording = span.is_recording()
    context = span.get_span_context()
    if not isinstance(context, SpanContext) or not context.is_valid:
        return None
    ended = context.trace_flags.sampled and not context.is_remote  # one that came from elsewhere was never recorded here
    return Spot(span, context) if recording or ended else None
