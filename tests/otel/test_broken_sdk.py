"""An SDK that raises, and spans that cannot be written on, break nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
from types import SimpleNamespace

import pytest
from doubles.pools import all_out, at_rest, engine
from doubles.virtual import turns
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from sqla_poolguard import CheckoutTimeout

from .traces import hold, same, spans, wait


class Broken(SpanProcessor):
    """A processor that raises."""

    def on_start(self, span, parent_context=None):
        """Raise, for ours."""
        if span.name.startswith("pool."):
            message = "broken"
            raise RuntimeError(message)

    def on_end(self, span):
        """Raise, for ours."""
        self.on_start(span)


async def test_broken_processor_breaks_no_checkout(sdk, caplog):
    """What an SDK's processor raises is logged once, and neither a wait nor a release fails for it."""
    sdk.tracer_provider.add_span_processor(Broken())
    db = engine(pool_size=1, max_overflow=0, pool_timeout=3)
    for _ in range(3):
        holder = hold(sdk, db, 1)
        await turns()
        await asyncio.gather(holder, wait(sdk, db))
    async with all_out(db, 1):
        with pytest.raises(CheckoutTimeout):
            await wait(sdk, db)
    at_rest(db, 1)
    said = [record.getMessage() for record in caplog.records if record.name == "sqla_poolguard" and record.levelname == "ERROR"]
    assert said == ["a span could not be drawn; further failures are not logged"]


async def test_broken_span_breaks_no_release(sdk, monkeypatch):
    """A holder's span that cannot be written on, or cannot be linked from, costs it nothing."""
    db = engine(pool_size=1, max_overflow=0)

    class Older(NonRecordingSpan):
        def is_recording(self):
            return True

        def add_event(self, *_, **__):
            message = "ended in between"
            raise RuntimeError(message)

    async def holder():
        with sdk.tracer.start_as_current_span("real") as real, use_span(Older(real.get_span_context())):
            async with db.connect():
                await asyncio.sleep(1)

    task = asyncio.create_task(holder())
    await turns()
    await asyncio.gather(task, wait(sdk, db))
    assert same(sdk.acquired()[0].links[0], spans(sdk, "real")[0])
    at_rest(db, 1)


async def test_provider_that_raises_breaks_no_checkout(sdk, caplog, monkeypatch):
    """A provider that was set late, and has no tracer to give, is logged once; who waits gets a connection all the same."""

    class Late:
        """Stands for the tracer of a provider that is still to be set."""

        @property
        def _tracer(self):
            raise ZeroDivisionError

    monkeypatch.setattr(sdk.spans, "tracer", Late())
    db = engine(pool_size=1, max_overflow=0)
    for _ in range(2):
        holder = hold(sdk, db, 1)
        await turns()
        await asyncio.gather(holder, wait(sdk, db))
    at_rest(db, 1)
    assert [record.exc_info[0] for record in caplog.records if record.name == "sqla_poolguard" and record.exc_info] == [
        ZeroDivisionError
    ]


@pytest.mark.parametrize(
    ("start_time", "parent"),
    [(dt.datetime(2026, 1, 1), SpanContext(5, 6, is_remote=False)), (1.5, "00-abc"), ("now", object())],  # noqa: DTZ001 - as theirs
)
async def test_span_of_another_kind_breaks_no_release(sdk, start_time, parent):
    """What another SDK's span has under names that the API does not know is left alone; the span is a place like any other."""
    db = engine(pool_size=1, max_overflow=0)
    foreign = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    foreign.is_recording, foreign.start_time, foreign.parent = lambda: True, start_time, parent

    async def holder():
        with use_span(foreign):
            async with db.connect():
                await asyncio.sleep(1)

    task = asyncio.create_task(holder())
    await turns()
    await asyncio.gather(task, wait(sdk, db))
    assert [link.context for link in sdk.acquired()[0].links] == [foreign.get_span_context()]
    at_rest(db, 1)


async def test_span_without_a_context_breaks_nothing(sdk):
    """A current span whose context is none of the API's is no place: neither a wait nor a release fails for it."""
    db = engine(pool_size=1, max_overflow=0)
    odd = NonRecordingSpan(SimpleNamespace(is_valid=True, trace_id="1", span_id="2", trace_flags=TraceFlags(1), is_remote=False))
    odd.is_recording = lambda: True

    async def hold_for(seconds):
        with use_span(odd):
            async with db.connect():
                await asyncio.sleep(seconds)

    await asyncio.gather(hold_for(1), hold_for(0), wait(sdk, db))
    at_rest(db, 1)
