"""After a storm of everything that can happen, a scrape tells what the ledger tells, and OpenTelemetry's SDK the same."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import random

import pytest
from doubles.driver import FakeDriver
from doubles.pools import engine, ledger_of, pool_of
from doubles.scrapes import Scrape
from doubles.storm import Storm, seed
from doubles.virtual import turns
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from sqla_poolguard import Guard, Observer, _ledger, _samples
from sqla_poolguard._facts import Ending, Reason

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
KEPT = 64


class RoughDriver(FakeDriver):
    """A driver whose steps take a while or fail."""

    def __init__(self, rnd):
        super().__init__()
        self.rnd = rnd

    async def through(self, step):
        """Pass, or not."""
        self.begun[step] += 1
        await asyncio.sleep(self.rnd.choice((0.0, 0.0, 0.0009765625)))
        if self.rnd.random() < 0.05:
            message = f"the sea is rough: {step}"
            raise OSError(message)


class Truth(Observer):
    """Sums up what happens, on the hot path, as no one should in earnest."""

    def __init__(self):
        self.waited_all, self.held_all, self.created_all = [], [], []

    def ended(self, checkout):
        """Add up."""
        self.waited_all.append(checkout.waited)
        self.held_all.append(checkout.held)

    def opened(self, opened):
        """Add up."""
        self.created_all.append(opened.create_time)


def told_by(reader, pool):
    """Collect from OpenTelemetry's SDK: (count, sum) of its histograms, by short name."""
    data = reader.get_metrics_data()
    return {
        metric.name.removeprefix("db.client.connection."): (point.count, point.sum)
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
        if metric.name.endswith("_time") and point.attributes["db.client.connection.pool.name"] == pool
    }


def check(scrape, db, truth, reader=None):
    """Compare a scrape, and what the SDK tells, with the ledger and with the truth."""
    ledger, name = ledger_of(db), pool_of(db).name
    told = told_by(reader, name) if reader is not None else None
    values = scrape.values(name, zeros=True)
    for metric, expected in (
        ("wait_time", truth.waited_all),
        ("use_time", truth.held_all),
        ("create_time", truth.created_all),
    ):
        count, total = len(expected), pytest.approx(math.fsum(expected))
        assert (values[f"{metric}_seconds_count"], values[f"{metric}_seconds_sum"]) == (count, total)
        buckets = scrape.buckets(name, f"{metric}_seconds")
        for boundary, below in buckets.items():
            assert below == sum(seconds <= float(boundary) for seconds in expected), f"{metric} up to {boundary}"
        assert told is None or not count or told[metric] == (count, total)
    assert len(truth.held_all) == sum(ledger.ended.values())
    assert len(truth.created_all) == ledger.opened
    for reason, count in ledger.rejected.items():
        assert values[f"poolguard_rejections_total {reason}"] == count
    assert values["timeouts_total"] == ledger.rejected[Reason.TIMEOUT]
    assert values["poolguard_would_reject_total"] == ledger.would_reject
    assert values["count used"] == len(ledger.leases()) == ledger.granted - sum(ledger.ended.values())
    assert values["count idle"] == sum(len(slots.idle) for slots in ledger.pools())
    assert values["pending_requests"] == ledger.waiting
    assert values["max"] == 6
    assert values["idle_max"] == 3
    assert values["idle_min"] == 0


@pytest.mark.parametrize("both", [False, True], ids=["alone", "beside an SDK"])
async def test_scrape_equals_the_ledger(monkeypatch, both):
    """Every count, sum and bucket is exact, in the middle of the storm and after it, over disposals and overfull buffers."""
    for room in (_ledger, _samples):
        monkeypatch.setattr(room, "SAMPLES_KEPT", KEPT)
    logging.disable(logging.CRITICAL)
    rnd = random.Random(seed())
    reader = InMemoryMetricReader() if both else None
    provider = MeterProvider([reader], shutdown_on_exit=False) if both else None
    truth = Truth()
    guard = Guard(name=f"storm beside {reader}", hold_warning=None, breaker=False, observers=(truth,), meter_provider=provider)
    db = engine(RoughDriver(rnd), pool_size=3, max_overflow=3, pool_timeout=0.00390625, guard=guard)
    scrape = Scrape(db)

    async def look():
        if rnd.random() < 0.3:
            await db.dispose()
        await turns()  # leaks are told a moment later
        ledger_of(db).check()
        assert len(ledger_of(db).samples) <= KEPT + 7, "what is out may end before the next is granted"
        check(scrape, db, truth, reader if rnd.random() < 0.5 else None)

    storm = Storm(db, rnd, ledger_of(db).check, cancelled=0.1)
    try:
        await storm.run(2000, meanwhile=look)
    finally:
        logging.disable(logging.NOTSET)
    gc.collect()
    await turns()
    check(scrape, db, truth, reader)
    ledger = ledger_of(db)
    assert ledger.granted == sum(ledger.ended.values()) > 1000
    assert all(ledger.ended[ending] for ending in (Ending.CHECKED_IN, Ending.INVALIDATED, Ending.DETACHED, Ending.LEAKED))
    assert {reason for reason, count in ledger.rejected.items() if count} >= {
        Reason.TIMEOUT,
        Reason.CANCELLED,
        Reason.CONNECT_FAILED,
    }
    if provider is not None:
        provider.shutdown()
