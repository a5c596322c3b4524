"""Which two traces to look at, of all that went out: that of the request that waited most in vain, and that of its holder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import StatusCode, format_trace_id

from sqla_poolguard._otel import _names as names

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["Clue", "Clues"]

_MOST_NAMES: Final = 50_000


@dataclass(frozen=True, slots=True)
class Clue:
    """A wait for a connection, and who held it."""

    waited: str
    """Trace of the request that waited, in 32 hexadecimal digits."""
    waiter: str
    """What that request was: the name of its first span."""
    seconds: float
    """For how long it waited."""
    outcome: str
    """How that ended, as in the attribute `poolguard.outcome`."""
    span: str
    """Name of the span that shows the wait."""
    held: str
    """Trace of the request that held."""
    holder: str
    """What that request was."""
    site: str
    """Where it had taken the connection: file, line and function."""

    def to_json(self) -> dict[str, Any]:
        """Give all of it."""
        return asdict(self)


class Clues:
    """Sees every span that goes out, and remembers the most telling wait."""

    def __init__(self) -> None:
        self._requests: dict[int, str] = {}
        """What the first span of each trace is called."""
        self._best: ReadableSpan | None = None
        self._weight = (False, 0.0)

    def see(self, span: ReadableSpan) -> None:
        """Look at a span."""
        context = span.get_span_context()
        if span.parent is None and context is not None and len(self._requests) < _MOST_NAMES:
            self._requests[context.trace_id] = span.name
        attributes = span.attributes or {}
        if names.OUTCOME in attributes and names.HOLDER_TRACE in attributes:
            weight = span.status.status_code is StatusCode.ERROR, float(attributes[names.WAIT_TIME])  # type: ignore[arg-type]
            if weight > self._weight:
                self._best, self._weight = span, weight

    def best(self) -> Clue | None:
        """Give the wait that failed, and among those the longest; None if nobody waited for anybody."""
        span = self._best
        if span is None:
            return None
        attributes: Any = span.attributes
        waited: Any = span.get_span_context()
        held = attributes[names.HOLDER_TRACE]
        return Clue(
            waited=format_trace_id(waited.trace_id),
            waiter=self._requests.get(waited.trace_id, "a request"),
            seconds=attributes[names.WAIT_TIME],
            outcome=attributes[names.OUTCOME],
            span=span.name,
            held=held,
            holder=self._requests.get(int(held, 16), "a request"),
            site=attributes[names.HOLDER_SITE],
        )
