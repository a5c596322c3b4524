"""An engine may be told which providers to use; those that name the same one share its instruments, and nothing lives too long."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import engine, pool_of
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import Guard, GuardedPool
from sqla_poolguard._otel import _providers

from .conftest import Reader


async def checkouts(db, count):
    """Check out and in, so many times."""
    for _ in range(count):
        async with db.connect():
            pass


def measured(reader):
    """Tell what use a reader has heard of, by pool."""
    found = reader.metrics().get("db.client.connection.use_time")
    return {p.attributes["db.client.connection.pool.name"]: p.count for p in found.data.data_points} if found else {}


@pytest.fixture
def provider():
    """Give a meter provider with a reader, which nobody has set for the process."""
    provider = MeterProvider([reader := Reader()], shutdown_on_exit=False)
    provider.reader = reader
    yield provider
    provider.shutdown()


async def test_meter_provider_of_an_engine(sdk, provider):
    """What an engine measures goes to the provider that it was given, and nowhere else, over `dispose()` too."""
    mine, other = engine(guard=Guard(name="mine", meter_provider=provider)), engine(guard=Guard(name="other"))
    for _ in range(2):
        await checkouts(mine, 2)
        await mine.dispose()
    await checkouts(other, 3)
    assert measured(provider.reader) == {pool_of(mine).name: 4}
    assert measured(sdk.readers[0]) == {pool_of(other).name: 3}


async def test_tracer_provider_of_an_engine(sdk):
    """Waits are drawn with the provider that the engine was given."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    db = engine(FakeDriver(connect=Gate.SLOW), guard=Guard(tracer_provider=provider))
    with sdk.tracer.start_as_current_span("request"):
        await checkouts(db, 1)
    assert [span.name for span in exporter.get_finished_spans()] == [f"pool.acquire {pool_of(db).name}"]
    assert sdk.acquired() == []


async def test_engines_with_one_provider_share_instruments(provider, caplog):
    """However many engines name a provider, it has one set of instruments, and nothing to warn of."""
    engines = [engine(guard=Guard(name="shared", meter_provider=provider)) for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        for db in engines:
            await checkouts(db, 2)
        assert sorted(measured(provider.reader)) == sorted(pool_of(db).name for db in engines)
    assert caplog.records == []


def test_the_global_provider_may_be_named(monkeypatch, provider):
    """Who names the provider that is the process's own shares with those who name none."""
    exporting = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(_providers, "get_meter_provider", lambda: provider)
    monkeypatch.setattr(_providers, "get_tracer_provider", lambda: exporting)
    assert _providers.metrics_of(provider) is _providers.metrics_of(None)
    assert _providers.spans_of(exporting) is _providers.spans_of(None)


def test_no_provider_is_kept_alive():
    """A provider goes when the application lets it go, although engines were made with it."""
    provider, tracers = MeterProvider([Reader()], shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    db = engine(guard=Guard(meter_provider=provider, tracer_provider=tracers))
    gone = weakref.ref(provider), weakref.ref(tracers)
    del db, provider, tracers
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


async def test_no_provider_keeps_a_pool_alive(provider):
    """An engine goes although its provider lives on, and leaves there what it measured."""
    db = engine(guard=Guard(name="passing", meter_provider=provider))
    await checkouts(db, 2)
    await db.dispose()
    name, gone = pool_of(db).name, weakref.ref(pool_of(db))
    del db
    gc.collect()
    assert gone() is None
    assert measured(provider.reader) == {name: 2}
    assert _providers.metrics_of(provider)._pools == []


def test_provider_that_does_nothing_is_let_go():
    """What was made with a provider that keeps nothing goes with the last engine; the next engine has it made anew."""
    provider = NoOpMeterProvider()
    db = engine(guard=Guard(meter_provider=provider))
    gone = weakref.ref(_providers.metrics_of(provider))
    assert gone() is not None
    del db
    gc.collect()
    assert gone() is None
    engine(guard=Guard(meter_provider=provider))


class Bare(NoOpMeterProvider):
    """A provider that no dictionary takes as a key."""

    __hash__ = None


async def test_provider_without_a_hash_will_do():
    """A provider that cannot be remembered is used all the same."""
    provider = Bare()
    await checkouts(engine(guard=Guard(meter_provider=provider)), 1)
    assert _providers.metrics_of(provider) is not _providers.metrics_of(provider)


@pytest.mark.parametrize("option", ["meter_provider", "tracer_provider"])
def test_a_url_cannot_name_a_provider(option):
    """A provider is an object: a URL that names one is refused, with what is allowed."""
    with pytest.raises(ValueError, match=rf"Guard option {option}='sdk' is not allowed.*cannot be given as text"):
        create_async_engine(f"postgresql+asyncpg://h/db?plugin=poolguard&poolguard_{option}=sdk")


def test_configure_takes_providers(provider):
    """A poolclass of one's own may bring a provider, which every engine made with it uses."""
    ours = GuardedPool.configure(meter_provider=provider, tracer_provider=trace.NoOpTracerProvider())
    assert ours.default_guard.meter_provider is provider
