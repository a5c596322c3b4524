"""The buffer of samples and its drain: bounded with and without an SDK, and never in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections import Counter, deque

import pytest
from doubles.pools import engine, ledger_of, pool_of
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics._internal.measurement_consumer import SynchronousMeasurementConsumer
from opentelemetry.sdk.metrics._internal.metric_reader_storage import MetricReaderStorage

from sqla_poolguard import _ledger
from sqla_poolguard._facts import Reason
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._otel import _metrics, _pace, observe
from sqla_poolguard._otel._measured import Measured

from .conftest import POOL, Reader


async def checkouts(db, count):
    """Check out and in, so many times."""
    for _ in range(count):
        async with db.connect():
            pass


class Broken:
    """An instrument that raises."""

    def record(self, *_, **__):
        """Raise."""
        raise ZeroDivisionError

    add = record


class BrokenFor:
    """An instrument that raises for one pool, and passes on what is told of the others."""

    def __init__(self, pool, instrument, error=ZeroDivisionError):
        self.pool, self.instrument, self.error = pool, instrument, error

    def record(self, amount, attributes, *context):
        """Raise or pass on."""
        if attributes[POOL] == self.pool:
            raise self.error
        tell = self.instrument.record if hasattr(self.instrument, "record") else self.instrument.add
        tell(amount, attributes, *context)

    add = record


class NoOpProvider(NoOpMeterProvider):
    """The API's provider that does nothing."""

    def shutdown(self):
        """Do nothing."""


async def test_overfull_buffer_is_recorded(sdk, monkeypatch):
    """Above the bound samples are recorded one by one, not lost."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 10)
    db = engine()
    await checkouts(db, 50)
    assert len(ledger_of(db).samples) <= 11
    assert sdk.values()["use_time"][0] == 50


@pytest.mark.parametrize("none", ["the API's", "an SDK that is disabled"])
async def test_memory_is_bounded_without_sdk(use, monkeypatch, none):
    """With no SDK that takes the samples, the oldest are forgotten, many at once, and no instrument is called for them."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 10)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    sdk = use(meter_provider=NoOpProvider() if none == "the API's" else MeterProvider(shutdown_on_exit=False))
    recorded = []
    monkeypatch.setattr(type(sdk.metrics.use_time), "record", lambda self, *_, **__: recorded.append(self))
    db = engine()
    await checkouts(db, 50)
    assert len(ledger_of(db).samples) <= 11
    assert recorded == [sdk.metrics.create_time]


def test_collected_engines_are_bounded(use, monkeypatch):
    """Engines that come and go all day, with no SDK, leave no more behind than one."""
    monkeypatch.setattr(_metrics, "SAMPLES_KEPT", 20)
    sdk = use(meter_provider=NoOpProvider())
    for number in range(100):
        ledger = Ledger()
        observe(ledger, str(number))
        ledger.samples.extend([(0.0, 1.0)] * 7)
    del ledger
    gc.collect()
    observe(Ledger(), "last")
    assert 0 < sum(len(pool.samples) for pool in sdk.metrics._pools) <= 20
    assert len(sdk.metrics._pools) <= 4


def test_collected_engines_are_few(use):
    """However little each has left: making an engine costs the same, how many there were; and an SDK is told of all."""
    for readers, options in ((), {"meter_provider": NoOpProvider()}), ((Reader(),), {}):
        sdk = use(*readers, **options)
        for number in range(2 * _metrics._MOST_LEFT):
            ledger = Ledger()
            observe(ledger, str(number))
            ledger.samples.append((0.0, 1.0))
            del ledger
        assert len(sdk.metrics._pools) <= _metrics._MOST_LEFT + 1
    found = sdk.readers[0].metrics()["db.client.connection.use_time"]
    assert sum(point.count for point in found.data.data_points) == 2 * _metrics._MOST_LEFT


def leave(number, samples):
    """Leave so many samples of an engine that is gone."""
    ledger = Ledger()
    observe(ledger, f"gone {number}")
    ledger.samples.extend([(0.0, 1.0)] * samples)


def counted(sdk):
    """Collect, and give how many use times there are, of all pools."""
    return sum(point.count for point in sdk.readers[0].metrics()["db.client.connection.use_time"].data.data_points)


def test_engine_is_made_at_once_whatever_others_have_left(sdk, monkeypatch):
    """Who makes an engine records no samples of those that are gone: the next export does, and the oldest of too many are forgotten."""
    monkeypatch.setattr(_metrics, "SAMPLES_KEPT", 100)
    with noted(sdk, monkeypatch) as recorded:
        for number in range(2):
            leave(number, 300)
        observe(Ledger(), "new")
        assert recorded == []
    assert counted(sdk) == 600
    for number in range(2, 5):
        leave(number, 300)
    observe(Ledger(), "newer")
    assert counted(sdk) == 600 + _metrics._MOST_FULL * 100


def test_engines_that_are_too_many_are_recorded_little_by_little(sdk, monkeypatch):
    """Beyond so many engines that are gone each one that is made records some samples, and no more."""
    monkeypatch.setattr(_metrics, "_MOST_LEFT", 2)
    monkeypatch.setattr(_metrics, "_AT_ONCE", 5)
    with noted(sdk, monkeypatch) as recorded:
        for number in range(4):
            leave(number, 4)
            assert len(recorded) <= 5 * max(number - 1, 0)
    left = sum(len(pool.samples) for pool in sdk.metrics._pools)
    assert 0 < len(recorded) == 16 - left
    assert counted(sdk) == left


async def test_engine_is_made_although_another_left_what_cannot_be_told(sdk, monkeypatch, caplog):
    """What a collected engine left behind, and an instrument refuses, breaks no engine that is made later; the log says so once."""
    ledger = Ledger()
    observe(ledger, "gone")
    ledger.samples.extend([(0.0, 1.0)] * 3)
    ledger.rejected[Reason.TIMEOUT] += 1
    del ledger
    gc.collect()
    for name in ("wait_time", "timeouts"):
        monkeypatch.setattr(sdk.metrics, name, Broken())
    monkeypatch.setattr(sdk.metrics._pools[0]._timeouts, "_counter", Broken())
    monkeypatch.setattr(_metrics, "SAMPLES_KEPT", 1)
    await checkouts(engine(), 1)
    assert [record.exc_info[0] for record in caplog.records if record.name == "sqla_poolguard"] == [ZeroDivisionError]


def test_drain_lets_others_run(sdk, monkeypatch):
    """A drain gives way every 8 samples, so that it never holds up an event loop for long."""
    naps = []
    monkeypatch.setattr(_pace.time, "sleep", naps.append)
    ledger = Ledger()
    observe(ledger, "long")
    sdk.values()
    naps.clear()
    ledger.samples.extend([(0.0, 1.0)] * 100)
    assert sdk.values()["use_time"] == (100, 100.0)
    assert naps in ([0] * 13, [0] * 14), "100 samples, and one pool that is looked at for each of six gauges"


def test_looking_at_many_engines_lets_others_run(sdk, monkeypatch):
    """Nor does one that finds 300 engines and no sample: at most 8 of them are looked at between two pauses, and told to the SDK."""
    naps = [Counter()]
    monkeypatch.setattr(_pace.time, "sleep", lambda _: naps.append(Counter()))
    ledgers = [Ledger() for _ in range(300)]
    for number, ledger in enumerate(ledgers):
        observe(ledger, f"engine {number}")
    for told, method in (
        ("looked at", (Measured, "deal")),
        ("counted", (SynchronousMeasurementConsumer, "consume_measurement")),
        ("observed", (MetricReaderStorage, "consume_measurement")),
    ):
        monkeypatch.setattr(*method, noting(getattr(*method), lambda told=told: naps[-1].update([told])))
    for _ in range(2):
        naps[:] = [Counter()]
        assert "db.client.connection.idle.min" in sdk.readers[0].metrics()
        assert sum(nap["looked at"] for nap in naps) == 2 * 6 * 300
        assert max(nap["looked at"] / 2 + nap["counted"] for nap in naps) <= 9
        assert max(nap["observed"] - nap["counted"] for nap in naps) <= 3 * 9


def noting(method, note):
    """Give a method that notes that it is called."""

    def noted(*given, **more):
        note()
        return method(*given, **more)

    return noted


def test_drain_leaves_the_rest_when_time_is_short(sdk):
    """A collection that is short of time takes what it can; the next one takes the rest."""
    ledger = Ledger()
    observe(ledger, "late")
    ledger.samples.extend([(0.0, 1.0)] * 100)
    (pool,) = sdk.metrics._drain(CallbackOptions(timeout_millis=0))
    assert pool.ledger() is ledger
    assert len(ledger.samples) == 100
    assert sdk.values()["use_time"] == (100, 100.0)


def test_drain_ends_although_samples_keep_coming(sdk, monkeypatch):
    """A busy pool cannot keep a collection from ending: what comes meanwhile is for the next."""
    ledger = Ledger()
    observe(ledger, "busy")
    ledger.samples.extend([(0.0, 1.0)] * 32)
    monkeypatch.setattr(_pace.time, "sleep", lambda _: ledger.samples.extend([(0.0, 1.0)] * 32))
    assert [*sdk.metrics._drain(CallbackOptions(timeout_millis=1e9))]
    assert len(ledger.samples) > 32


def test_sample_taken_by_another_is_not_missed(sdk):
    """Two collections at once share the samples between them."""
    pool = sdk.metrics.measure(Ledger(), "shared")
    pool.spill(deque())
    assert "use_time" not in sdk.values()


async def test_failing_spill_breaks_no_checkout(sdk, monkeypatch):
    """An instrument that raises where an overfull buffer spills costs its sample, and no checkout."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 10)
    db = engine()
    await checkouts(db, 10)
    monkeypatch.setattr(sdk.metrics, "wait_time", Broken())
    await checkouts(db, 10)
    ledger_of(db).check()


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
async def test_spill_that_is_cancelled_breaks_no_checkout(sdk, monkeypatch, error):
    """Nor does a cancellation of the SDK's own making reach the caller."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 2)
    db = engine()
    monkeypatch.setattr(sdk.metrics, "use_time", BrokenFor(pool_of(db).name, sdk.metrics.use_time, error))
    await checkouts(db, 5)
    assert ledger_of(db).granted == 5


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
async def test_what_is_refused_of_one_pool_costs_no_other(sdk, monkeypatch, caplog, error):
    """Samples or totals of one pool that an instrument refuses are logged once; the gauges and samples of all others are exported, and its own gauges."""
    bad, good = engine(), engine()
    await checkouts(bad, 10)
    await checkouts(good, 10)
    name = pool_of(bad).name
    monkeypatch.setattr(sdk.metrics, "use_time", BrokenFor(name, sdk.metrics.use_time, error))
    timeouts = sdk.metrics._pools[0]._timeouts
    monkeypatch.setattr(timeouts, "_counter", BrokenFor(name, timeouts._counter, error))
    gauges = {"count idle", "count used", "max", "idle.max", "idle.min", "pending_requests", "breaker.state closed"}
    found = {name.removeprefix("poolguard."): value for name, value in sdk.values(pool_of(good).name).items()}
    assert found["use_time"] == (10, 0.0)
    assert gauges <= found.keys()
    others = {name.removeprefix("poolguard."): value for name, value in sdk.values(pool_of(bad).name).items()}
    assert others.keys() == found.keys() - {"use_time", "timeouts"}
    assert others["wait_time"] == (10, 0.0)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [error]


async def test_pool_that_cannot_be_read_costs_no_other(sdk):
    """A listener of one pool that cannot be looked at leaves out what is asked of it, of that pool."""
    bad, good = engine(), engine()
    await checkouts(good, 1)
    ledger_of(bad).listeners = lambda: 1 // 0
    assert "count idle" not in sdk.values(pool_of(bad).name)
    assert sdk.values(pool_of(bad).name)["max"] == 15
    assert sdk.values(pool_of(good).name)["count idle"] == 1


async def test_drain_in_another_thread(sdk, monkeypatch):
    """A reader's own thread may collect while the loop goes on checking out; in the end nothing is missing."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 100)
    db = engine()
    until = time.monotonic() + 0.5

    def collect():
        while time.monotonic() < until:
            sdk.values()

    reader = threading.Thread(target=collect)
    reader.start()
    while time.monotonic() < until:
        await checkouts(db, 10)
    reader.join()
    assert sdk.values()["use_time"][0] == ledger_of(db).granted


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
async def test_garbage_collector_records_nothing(sdk, monkeypatch):
    """A leak that is collected while the buffer is full is not recorded there and then: the SDK may hold its lock just now."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 3)
    db = engine()
    leaked = await db.connect()
    await checkouts(db, 10)
    recorded = []
    monkeypatch.setattr(sdk.metrics, "use_time", Noting(recorded))
    del leaked
    gc.collect()
    assert ledger_of(db).ended["leaked"] == 1
    assert recorded == []


@contextlib.contextmanager
def noted(sdk, monkeypatch):
    """Note the use times that are recorded meanwhile."""
    recorded = []
    with monkeypatch.context() as patch:
        patch.setattr(sdk.metrics, "use_time", Noting(recorded))
        yield recorded


class Noting:
    """A histogram that notes what it is told."""

    def __init__(self, noted):
        self.noted = noted

    def record(self, amount, *_, **__):
        """Note."""
        self.noted.append(amount)
