"""The buffer of samples and its drain: bounded with and without an SDK, and never in anybody's way."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter, deque

import pytest
from doubles.pools import engine, ledger_of
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics._internal.measurement_consumer import SynchronousMeasurementConsumer
from opentelemetry.sdk.metrics._internal.metric_reader_storage import MetricReaderStorage

from sqla_poolguard import _ledger
from sqla_poolguard._facts import Reason
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._otel import _metrics, _pace, observe
from sqla_poolguard._otel._measured import Measured

from .conftest import Reader


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


class Noting:
    """A histogram that notes what it is told."""

    def __init__(self, noted):
        self.noted = noted

    def record(self, amount, *_, **__):
        """Note."""
        self.noted.append(amount)
