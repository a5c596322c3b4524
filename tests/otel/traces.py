"""Who holds and who waits, each in a trace of its own, and ways to look at what was drawn."""

from __future__ import annotations

import asyncio
import pathlib

from opentelemetry.trace import format_span_id, format_trace_id

SECOND = 1_000_000_000
LINES = pathlib.Path(__file__).read_text("utf-8").splitlines()


def line(mark):
    """Find the line that ends in a mark."""
    return next(number for number, text in enumerate(LINES, 1) if text.endswith(mark))


def short(attributes):
    """Give attributes by short name; seconds to the millisecond."""
    return {
        key.removeprefix("poolguard."): round(value, 3) if isinstance(value, float) else value
        for key, value in attributes.items()
    }


def events(span):
    """Give a span's events: (short name, seconds since it began, attributes)."""
    return [
        (event.name.removeprefix("poolguard."), round((event.timestamp - span.start_time) / SECOND, 3), short(event.attributes))
        for event in span.events
    ]


def same(link, span):
    """Tell whether a link leads to a span."""
    return (link.context.trace_id, link.context.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)


def names(span):
    """Give trace and span as they are written."""
    context = span.get_span_context()
    return format_trace_id(context.trace_id), format_span_id(context.span_id)


HOLDER = f"otel/traces.py:{line('# holds')} in hold.<locals>.holder"
WAITER = f"otel/traces.py:{line('# waits')} in wait.<locals>.waiter"


def spans(sdk, name):
    """Give the finished spans of one name."""
    return [span for span in sdk.exporter.get_finished_spans() if span.name == name]


def hold(sdk, db, seconds, name="holder"):
    """Hold a connection for so long, in a trace of its own."""

    async def holder():
        with sdk.tracer.start_as_current_span(name):
            async with db.connect():  # holds
                await asyncio.sleep(seconds)

    return asyncio.create_task(holder(), name=name)


def wait(sdk, db, name="waiter"):
    """Ask for a connection, in a trace of its own."""

    async def waiter():
        with sdk.tracer.start_as_current_span(name):
            async with db.connect():  # waits
                pass

    return asyncio.create_task(waiter(), name=name)
