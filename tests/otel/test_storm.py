"""After a storm of everything that can happen, whoever exports, however often and in whatever form, tells what the ledger tells."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import random
import threading

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import engine, ledger_of, pool_of
from doubles.virtual import turns, virtual_time
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    PeriodicExportingMetricReader,
)
from sqlalchemy.exc import DBAPIError

from sqla_poolguard import CheckoutError, Guard, Observer, _ledger, _urgency, deadline
from sqla_poolguard._facts import Ending, Reason
from sqla_poolguard._otel._spans import WORTH_SEEING
from sqla_poolguard._reclaim import reclaim

from .heard import CUMULATIVE, DELTA, Exporter, Heard

CHECKOUTS = 1000
REFUSALS = {Reason.TIMEOUT, Reason.CANCELLED, Reason.CONNECT_FAILED, Reason.QUEUE_FULL, Reason.DEADLINE}


class Manual:
    """A reader that collects when it is told to, in the thread that tells it."""

    def __init__(self, temporality):
        self.heard = Heard(temporality)
        self.reader = InMemoryMetricReader(preferred_temporality=self.heard.preferred)

    def collect(self):
        """Collect."""
        self.heard.take(self.reader.get_metrics_data())

    def pause(self):
        """Do nothing: it does nothing by itself."""

    go_on = pause


class Concurrent(Manual):
    """One that collects all the time, in a thread of its own."""

    def __init__(self, temporality):
        super().__init__(temporality)
        self.go_on()

    def go_on(self):
        """Begin to collect."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.001):
            self.collect()

    def pause(self):
        """Stop, for now."""
        self._stop.set()
        self._thread.join()


class Periodic(Manual):
    """The SDK's own periodic reader, which exports every few milliseconds."""

    def __init__(self, temporality):
        self.heard = Heard(temporality)
        self.reader = PeriodicExportingMetricReader(Exporter(self.heard), export_interval_millis=5)

    def collect(self):
        """Collect and export now."""
        self.reader.force_flush()


CREWS = {
    "manual": (Manual,),
    "periodic": (Periodic,),
    "two concurrent": (Concurrent, Concurrent),
    "periodic and manual": (Periodic, Manual),
}


class Observed(Observer):
    """Sums up what happens, on the hot path, as no one should in earnest: with it, every lease ends by the long way out."""

    def __init__(self):
        self.waited_sum, self.held_sum, self.created_sum = [], [], []
        self.options = {"observers": (self,)}

    def ended(self, checkout):
        """Add up."""
        self.waited_sum.append(checkout.waited)
        self.held_sum.append(checkout.held)

    def opened(self, opened):
        """Add up."""
        self.created_sum.append(opened.create_time)

    def watch(self, ledger, monkeypatch):
        """Do nothing: it is told."""


class Unobserved(Observed):
    """Likewise, with no observer, as by default: leases that nothing was found of end by the short way out. It listens to the books."""

    def __init__(self):
        super().__init__()
        self.options = {}

    def watch(self, ledger, monkeypatch):
        """Note what is written down."""
        end, connected = ledger.end, ledger.connected

        def noted_end(lease, now, ending):
            self.waited_sum.append(lease.waited)
            self.held_sum.append(now - lease.granted_at)
            end(lease, now, ending)

        def noted_connected(seconds):
            self.created_sum.append(seconds)
            connected(seconds)

        monkeypatch.setattr(ledger, "end", noted_end)
        monkeypatch.setattr(ledger, "connected", noted_connected)


async def one(db, driver, chance):
    """Check out once, and end it somehow."""
    await asyncio.sleep(chance.uniform(0, 20))
    if chance.random() < 0.1:
        asyncio.get_running_loop().call_later(chance.uniform(0, 0.5), asyncio.current_task().cancel)
    driver.connect = chance.choices([Gate.OK, Gate.SLOW, Gate.ERROR], [6, 3, 1])[0]
    try:
        with deadline(chance.choice([0.15, 100])):
            connection = await db.connect()
    except (CheckoutError, DBAPIError, OSError):
        return
    ending = chance.choices([*Ending], [20, 1, 1, 1, 1])[0]
    try:
        await asyncio.sleep(chance.expovariate(6))
    except asyncio.CancelledError:
        ending = Ending.CHECKED_IN
    if ending is Ending.LEAKED:
        return
    if ending is Ending.INVALIDATED:
        await connection.invalidate()
    if ending is Ending.DETACHED:
        raw = await connection.get_raw_connection()
        raw.driver_connection.outside = True
        raw.detach()
    if ending is Ending.RECLAIMED:
        raw = await connection.get_raw_connection()
        reclaim(raw._connection_record, pool_of(db)._watch.reporter)
    await connection.close()


def check(heard, db, truth):
    """Compare what a reader has heard with the ledger and with the truth."""
    ledger, name = ledger_of(db), pool_of(db).name
    values = heard.values(name)
    ended = sum(ledger.ended.values())
    early = [lease.waited for lease in ledger.leases() if lease.waited >= WORTH_SEEING]
    for metric, expected in (
        ("wait_time", truth.waited_sum + early),
        ("use_time", truth.held_sum),
        ("create_time", truth.created_sum),
    ):
        assert values.get(metric, (0, 0)) == (len(expected), pytest.approx(math.fsum(expected)))
    assert len(truth.held_sum) == ended
    assert len(truth.created_sum) == ledger.opened
    assert values["timeouts"] == ledger.rejected[Reason.TIMEOUT]
    assert {reason: values[f"poolguard.rejections {reason}"] for reason in Reason} == ledger.rejected
    assert {kind: values[f"poolguard.leaks {kind}"] for kind in ledger.totals.leaks} == ledger.totals.leaks
    assert values["poolguard.would_reject"] == ledger.would_reject
    assert values["count used"] == len(ledger.leases()) == ledger.granted - ended
    assert values["count idle"] == sum(len(slots.idle) for slots in ledger.pools())
    assert values["pending_requests"] == ledger.waiting


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize(("crew", "witness"), [*((crew, Unobserved) for crew in CREWS), ("two concurrent", Observed)])
async def test_metrics_equal_the_ledger(use, monkeypatch, crew, witness, temporality):
    """Counts and sums are those of the ledger, in the middle of the storm and after it, over disposals, leaks and spills."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 64)
    monkeypatch.setattr(_urgency, "clock", virtual_time)
    readers = [make(temporality) for make in CREWS[crew]]
    sdk = use(meter_provider=MeterProvider([reader.reader for reader in readers], shutdown_on_exit=False))
    chance = random.Random(f"{crew} {temporality}")
    truth, driver = witness(), FakeDriver(delay=0.3)
    guard = Guard(name="storm", hold_warning=None, breaker=False, max_waiting=6, **truth.options)
    db = engine(driver, pool_size=3, max_overflow=3, pool_timeout=0.35, guard=guard)
    truth.watch(ledger_of(db), monkeypatch)
    assert bool(pool_of(db)._observers.ended) is (witness is Observed), "which way out it is"
    tasks = [asyncio.create_task(one(db, driver, chance)) for _ in range(CHECKOUTS)]
    with contextlib.ExitStack() as stack:
        for reader in readers:
            stack.callback(reader.pause)
        for _ in range(5):
            await asyncio.sleep(4)
            if chance.random() < 0.3:
                await db.dispose()
            gc.collect()
            await turns()
            ledger_of(db).check()
            for reader in readers:
                reader.pause()
                reader.collect()
                check(reader.heard, db, truth)
                reader.go_on()
        await asyncio.gather(*tasks, return_exceptions=True)
    del tasks
    gc.collect()
    await turns()
    if crew == "periodic":
        sdk.provider.shutdown()  # its last export is to have all the rest
    for reader in readers:
        if crew != "periodic":
            reader.collect()
        check(reader.heard, db, truth)
    ledger = ledger_of(db)
    assert ledger.granted == sum(ledger.ended.values()) > CHECKOUTS / 2
    assert all(ledger.ended.values()), "every kind of ending has occurred"
    assert ledger.totals.leaks["garbage_collected"] == ledger.ended[Ending.LEAKED]
    assert {reason for reason, count in ledger.rejected.items() if count} >= REFUSALS
