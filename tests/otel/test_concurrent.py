"""Exporters that read while engines come and go, and while others deal: no name is taken for it, and no sample is lost."""

from __future__ import annotations

import gc
import threading
from functools import partial

from doubles.pools import engine, ledger_of, pool_of
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from sqla_poolguard import Guard, _samples
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._otel import _pace, observe
from sqla_poolguard._otel._names import CONNECTION_USE_TIME
from sqla_poolguard._prometheus.account import Account

from .conftest import Reader
from .heard import CUMULATIVE, DELTA, Exporter, Heard


def in_thread(work):
    """Begin something in a thread."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


async def test_name_of_an_engine_that_is_made_anew_during_a_scrape(sdk):
    """An engine that is dropped and made anew keeps its name, although an exporter has the old one's books in its hand."""
    reading, done = threading.Event(), threading.Event()
    db = engine(guard=Guard(name="made anew"), pool_size=1, max_overflow=0)

    def listeners():
        reading.set()
        done.wait(20)
        return ()

    ledger_of(db).listeners = listeners
    scrape = in_thread(sdk.values)
    assert reading.wait(20)
    del db
    gc.collect()
    anew = engine(guard=Guard(name="made anew"), pool_size=4, max_overflow=0)
    done.set()
    scrape.join()
    assert pool_of(anew).name == "made anew"
    assert sdk.values("made anew")["max"] == 4


async def test_books_of_an_engine_that_is_gone_are_not_added_to_those_of_the_next(sdk):
    """Whoever keeps the books of an engine that is gone does not have its gauges told beside those of the next of that name."""
    db = engine(guard=Guard(name="gone and anew"), pool_size=1, max_overflow=0)
    async with db.connect():
        pass
    kept = ledger_of(db)
    kept.waiting = 7
    del db
    gc.collect()
    anew = engine(guard=Guard(name="gone and anew"))
    values = sdk.values(pool_of(anew).name)
    assert (pool_of(anew).name, values["pending_requests"], values["use_time"][0]) == ("gone and anew", 0, 1)


def test_last_export_has_what_another_thread_is_just_dealing(sdk, monkeypatch):
    """Samples of an engine that is gone, which a Prometheus scrape is just dealing to all, are in the export that looks meanwhile."""
    ledger = Ledger()
    observe(ledger, "gone")
    account = Account("gone", ledger)
    ledger.samples.extend([(0.0, 1.0)] * 5)
    exports, take, values = [], _samples.take, []

    def slow(samples, most):
        hand = take(samples, most)
        if hand:
            exports.append(in_thread(lambda: values.append(sdk.values())))
            exports[0].join(0.05)
        return hand

    monkeypatch.setattr(_samples, "take", slow)
    dealt = ledger.dealt
    del ledger
    dealt.deal()
    exports[0].join()
    assert values[0]["use_time"] == (5, 5.0)
    assert account.times()[1].count == 5


def test_nothing_is_lost_at_force_flush_and_shutdown_among_threads(use):
    """
    Engines come, work and go in two threads; two readers of the SDK and a Prometheus scrape take all the time, and somebody flushes.

    In the end, after a shutdown, each has counted every lease once.
    """
    heard = Heard(CUMULATIVE), Heard(DELTA)
    readers = [PeriodicExportingMetricReader(Exporter(one), export_interval_millis=1) for one in heard]
    sdk = use(meter_provider=MeterProvider([*readers, other := Reader()], shutdown_on_exit=False))
    made, accounts, over = [], {}, threading.Event()

    def work(name):
        for number in range(60):
            ledger = Ledger()
            observe(ledger, f"{name} {number}")
            accounts[f"{name} {number}"] = Account(f"{name} {number}", ledger)
            for size in (1, 40, 3):
                ledger.samples.extend([(0.0, 1.0)] * size)
                made.append(size)
            del ledger

    def scrape():
        while not over.is_set():
            counted(accounts.copy())

    def flush():
        while not over.is_set():
            sdk.provider.force_flush()
            leases(other)

    others = [in_thread(scrape), in_thread(flush)]
    workers = [in_thread(partial(work, name)) for name in ("one", "two")]
    join(workers)
    over.set()
    join(others)
    taken = leases(other)
    sdk.provider.shutdown()
    told = [sum(one.values(pool)["use_time"][0] for pool in accounts) for one in heard]
    assert [*told, taken, counted(accounts)] == [sum(made)] * 4
    assert sdk.metrics._pools == []


def join(threads):
    """Wait for threads."""
    for thread in threads:
        thread.join()


def counted(accounts):
    """Have everything counted that has come, and tell how many leases there were."""
    return sum(account.times()[1].count for account in accounts.values())


def leases(reader):
    """Collect, and count the leases so far."""
    found = reader.metrics().get(CONNECTION_USE_TIME.name)
    return sum(point.count for point in found.data.data_points) if found is not None else 0


def test_last_lease_that_ends_during_a_drain_is_told(sdk, monkeypatch):
    """What an engine measures while its samples are being recorded, and before it is collected, is recorded too, and then nothing of it is kept."""
    books = [Ledger()]
    observe(books[0], "gone")
    account = Account("gone", books[0])
    books[0].samples.append((0.0, 1.0))
    sdk.metrics._pace._left = 1  # it pauses before the first sample

    def pause(_):
        if books:
            books.pop().samples.append((0.0, 2.0))

    monkeypatch.setattr(_pace.time, "sleep", pause)
    assert sdk.values()["use_time"] == (2, 3.0)
    assert account.times()[1].count == 2
    assert sdk.metrics._pools == []
