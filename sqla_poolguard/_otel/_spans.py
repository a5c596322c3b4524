"""
Spans for waits and holds worth seeing, drawn when they are over.

It draws no root, and tells neither SQL nor parameters; a line that has had its share is only counted.
"""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.trace import Link, NoOpTracer, ProxyTracer, SpanKind, StatusCode, get_current_span

from sqla_poolguard._facts import Ending
from sqla_poolguard._otel import _attributes as describe
from sqla_poolguard._otel import _names as names
from sqla_poolguard._otel._quota import Quota
from sqla_poolguard._otel._spot import here, last_spot, spot_of
from sqla_poolguard._tracing import Tracing
from sqla_poolguard.errors import CheckoutError

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.trace import Span, SpanContext, Tracer

    from sqla_poolguard._course import Course, Giver
    from sqla_poolguard._facts import Rejection, Site, Wait
    from sqla_poolguard._otel._spot import Spot
    from sqla_poolguard._totals import Totals
    from sqla_poolguard._tracing import Blockers, Hold

__all__ = ["WORTH_SEEING", "PoolSpans", "Spans"]

WORTH_SEEING: Final = 0.05
"""Seconds from which a wait that ended well gets a span."""

_API: Final = vars(trace)
_HOLDERS_SHOWN: Final = 3
_KEPT: Final = 100

_log: Final = logging.getLogger("sqla_poolguard")


class Spans:
    """
    Draws with one tracer.

    A span is made when what it shows is over, with explicit times:
    an ordinary checkout costs nothing, and a wait that nobody traces asks only who the parent is.
    """

    def __init__(self, tracer: Tracer, worth_seeing: float = WORTH_SEEING) -> None:
        """
        Draw with this tracer.

        Args:
            tracer: makes the spans.
            worth_seeing: seconds from which a wait that ended well is drawn.
        """
        self.tracer = tracer
        self.worth_seeing = worth_seeing
        self._is_drawing = False
        self._is_proxy = type(tracer) is ProxyTracer

    def is_drawing(self) -> bool:
        """
        Tell whether there is an SDK behind the tracer: it may stand for one of a provider that is still to be set.

        That is asked on the way through the queue, and a proxy takes long to answer; so it is looked up whether one is set at all.
        """
        if not self._is_drawing:
            if self._is_proxy and _API.get("_TRACER_PROVIDER", self) is None:
                return False
            self._is_drawing = type(getattr(self.tracer, "_tracer", self.tracer)) is not NoOpTracer
        return self._is_drawing

    def of_pool(self, totals: Totals) -> PoolSpans:
        """Give what draws for one pool, and counts there what it does not draw."""
        return PoolSpans(self, totals)


class PoolSpans(Tracing):
    """
    The spans of one engine's pool, through all its generations.

    A wait is to be told in the context of who waited, and at once: its span ends now.
    A hold is drawn where its holder worked, even if the span it worked in has ended.
    Whatever fails here breaks no checkout; it is logged, once.
    """

    __slots__ = ("_failed", "_kept", "_quota", "_spans", "worth_seeing")

    def __init__(self, spans: Spans, totals: Totals) -> None:
        self._spans = spans
        self.worth_seeing = spans.worth_seeing
        self._quota = Quota(totals)
        self._kept: deque[tuple[Hold, float, int]] = deque(maxlen=_KEPT)
        """What is still to be drawn: (hold, its end on the pool's clock, likewise in nanoseconds of the wall clock)."""
        self._failed = False

    def is_drawing(self) -> bool:
        """Tell whether there is an SDK that draws."""
        try:
            return self._spans.is_drawing()
        except (Exception, CancelledError):  # noqa: BLE001 - it may have been asked for a tracer just now
            self._fail()
            return False

    def here(self) -> Spot | None:
        """Tell where in a trace the running code is; None if that is not recorded."""
        return self._quietly(here)  # type: ignore[no-any-return]

    def spot_of(self, task: Task[Any] | None) -> Spot | None:
        """Tell where in a trace a task is; None if that is not recorded."""
        return self._quietly(spot_of, task)  # type: ignore[no-any-return]

    def last_spot(self, seen: Spot | None, held: float) -> Spot | None:
        """Tell where in a trace a lease is held that is given back here; None if that is not recorded."""
        return self._quietly(last_spot, seen, held)  # type: ignore[no-any-return]

    def is_open(self, spot: Spot) -> bool:
        """Tell whether the span at a place is still being recorded."""
        return self._quietly(spot.open_span) is not None

    def waited(self, wait: Wait, course: Course, now: float) -> None:
        """Draw a wait that ended well."""
        self._quietly(self._waited, wait, course, now)

    def refused(self, rejection: Rejection, course: Course | None, now: float, blockers: Blockers) -> None:
        """Draw a wait that ended badly."""
        self._quietly(self._refused, rejection, course, now, blockers)

    def blocked(self, giver: Giver, site: Site | None, spot: Spot | None, waited: float) -> None:
        """Tell a holder, on its own span if that is still open, who has waited for it."""
        self._quietly(self._blocked, giver, site, spot, waited)

    def held(self, hold: Hold, now: float) -> None:
        """Draw a hold that ends now."""
        self._quietly(self._held, hold, now, time.time_ns())

    def keep(self, hold: Hold, now: float) -> None:
        """Draw a hold later: the garbage collector calls, and may have interrupted whoever has an SDK's lock."""
        if len(self._kept) == _KEPT:
            self._quota.suppress()
        self._kept.append((hold, now, time.time_ns()))

    def draw_kept(self) -> None:
        """Draw what was kept."""
        while self._kept:
            try:
                kept = self._kept.popleft()
            except IndexError:  # another thread draws it
                return
            self._quietly(self._held, *kept)

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        self._kept.clear()
        self._quota.forget()

    def _quietly(self, draw: Callable[..., Any], *arguments: Any) -> Any:
        """Draw, if there is an SDK that does, and break nothing by it, nor fill the log."""
        if not self.is_drawing():
            return None
        try:
            return draw(*arguments)
        except (Exception, CancelledError):  # noqa: BLE001 - whatever an SDK, or one of its processors, does
            self._fail()
        return None

    def _fail(self) -> None:
        if not self._failed:
            self._failed = True
            _log.exception("a span could not be drawn; further failures are not logged")

    def _waited(self, wait: Wait, course: Course, now: float) -> None:
        if not get_current_span().is_recording() or (suppressed := self._quota.take((names.GRANTED, wait.site), now)) is None:
            return
        attributes = describe.wait(wait, names.GRANTED, suppressed)
        attributes[names.QUEUE_TIME] = wait.queued
        attributes[names.WAITERS_AHEAD] = wait.ahead
        giver = course.giver
        if giver is not None:
            attributes |= describe.giver(giver)
        span, end = self._draw(wait, course, now, attributes, [giver.spot] if giver is not None else [])
        span.end(end)

    def _refused(self, rejection: Rejection, course: Course | None, now: float, blockers: Blockers) -> None:
        reason, error = rejection.reason, rejection.error
        if not get_current_span().is_recording() or (suppressed := self._quota.take((reason, rejection.site), now)) is None:
            return
        found = blockers(_HOLDERS_SHOWN) if describe.is_holders_fault(reason, course) else []
        attributes = describe.wait(rejection, str(reason), suppressed) | describe.error(error)
        if course is not None:
            attributes[names.QUEUE_TIME] = course.queued(now)
            attributes[names.WAITERS_AHEAD] = course.ahead
        for holder, spot in found[:1]:
            attributes |= describe.holder(holder, spot)
        span, end = self._draw(rejection, course, now, attributes, [spot for _, spot in found])
        for holder, spot in found:
            span.add_event(names.LONGEST_HOLDER, describe.holder(holder, spot), end)
        # another's message may quote SQL and parameters
        span.set_status(StatusCode.ERROR, str(error).partition("\n")[0] if isinstance(error, CheckoutError) else None)
        span.end(end)
        own, told = span.get_span_context(), [spot for _, spot in found]
        if course is not None and course.giver is not None and course.in_queue:  # who was told that it had given
            told.append(course.giver.spot)
        for spot in _each(told):
            self._tell(spot, describe.waiter(rejection.site, own, rejection.waited, str(reason)), own)

    def _draw(
        self,
        fact: Wait | Rejection,
        course: Course | None,
        now: float,
        attributes: dict[str, Any],
        holders: Sequence[Spot | None],
    ) -> tuple[Span, int]:
        """Begin the span of a wait that is over, and tell when it has to end, in nanoseconds of the wall clock."""
        end = time.time_ns()
        # INTERNAL: nothing remote is called, and a CLIENT span would be counted as a call of the database
        span = self._spans.tracer.start_span(
            names.acquire_span(fact.pool),
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            links=[Link(spot.context, {names.LINK: names.HOLDER}) for spot in _each(holders)],
            start_time=end - _ns(fact.waited),
        )
        for phase in course.phases(now) if course is not None else ():
            span.add_event(names.phase_event(phase.name), {names.DURATION: phase.seconds}, end - _ns(now - phase.since))
        return span, end

    def _blocked(self, giver: Giver, site: Site | None, spot: Spot | None, waited: float) -> None:
        if giver.spot.open_span() is None or (suppressed := self._quota.take((names.BLOCKED_WAITER, site), giver.at)) is None:
            return
        context = spot.context if spot is not None else None
        attributes = describe.waiter(site, context, waited, names.HANDED_OVER)
        self._tell(giver.spot, attributes | describe.suppressed(suppressed), context)

    @staticmethod
    def _tell(spot: Spot, attributes: dict[str, Any], waiter: SpanContext | None) -> None:
        """Tell a holder on its own span that somebody waits, or has waited, for its connection."""
        span = spot.open_span()
        if span is None:
            return
        span.add_event(names.BLOCKED_WAITER, attributes)
        if waiter is not None and hasattr(span, "add_link"):  # not every SDK's has it
            span.add_link(waiter, {names.LINK: names.WAITER})

    def _held(self, hold: Hold, now: float, end: int) -> None:
        checkout = hold.checkout
        suppressed = self._quota.take((checkout.ending is Ending.LEAKED, checkout.site), now)
        if suppressed is None:
            return
        span = self._spans.tracer.start_span(
            names.hold_span(checkout.pool),
            hold.spot.as_parent(),
            SpanKind.INTERNAL,
            describe.hold(hold) | describe.suppressed(suppressed),
            start_time=end - _ns(now - hold.granted_at),
        )
        for gap in hold.gaps:
            span.add_event(names.IDLE_GAP, describe.gap(gap), end - _ns(now - gap.since))
        if checkout.ending is Ending.LEAKED:
            span.set_status(StatusCode.ERROR, "the connection was never given back")
        span.end(end)


def _each(spots: Iterable[Spot | None]) -> list[Spot]:
    """Give every span that is recorded, once: one may hold several connections."""
    found: dict[tuple[int, int], Spot] = {}
    for spot in spots:
        if spot is not None:
            found.setdefault((spot.context.trace_id, spot.context.span_id), spot)
    return list(found.values())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
