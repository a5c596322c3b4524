"""An application may rename, drop, or aggregate otherwise what it gets, with an SDK's views: nothing else changes by it."""

from __future__ import annotations

import asyncio

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, engine, ledger_of, queue_up
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import DropAggregation, ExponentialBucketHistogramAggregation, View

from .conftest import DELTA, Reader

WAIT, USE = "db.client.connection.wait_time", "db.client.connection.use_time"


async def checkouts(db, count):
    """Check out and in, so many times."""
    for _ in range(count):
        async with db.connect():
            pass


@pytest.fixture
def seen_through(use):
    """Let engines use an SDK with these views and one reader."""

    def make(*views, **options):
        return use(meter_provider=MeterProvider([reader := Reader(**options)], views=views, shutdown_on_exit=False)), reader

    return make


async def test_renamed(seen_through):
    """A metric with another name has the same figures."""
    _, reader = seen_through(View(instrument_name=USE, name="hikari.usage"))
    await checkouts(engine(), 3)
    found = reader.values()
    assert found["hikari.usage"][0] == found["wait_time"][0] == 3
    assert "use_time" not in found


async def test_dropped(seen_through):
    """One that is dropped is gone, whether it is read, counted or recorded, and all others are as they were."""
    dropped = ["db.client.connection.count", "poolguard.rejections", WAIT]
    _, reader = seen_through(*(View(instrument_name=name, aggregation=DropAggregation()) for name in dropped))
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    async with all_out(db, 1):
        await asyncio.gather(*await queue_up(db, [], "in vain"), return_exceptions=True)
    metrics = reader.metrics()
    assert metrics.keys().isdisjoint(dropped)
    found = reader.values()
    assert (found["use_time"][0], found["timeouts"], found["max"]) == (1, 1, 1)
    assert ledger_of(db).samples == type(ledger_of(db).samples)(), "the buffer is drained all the same"


async def test_everything_that_is_read_is_dropped(seen_through):
    """With nothing left to read, what is recorded still comes."""
    gauges = ["count", "max", "idle.max", "idle.min", "pending_requests"]
    views = [View(instrument_name=f"db.client.connection.{name}", aggregation=DropAggregation()) for name in gauges]
    _, reader = seen_through(*views, View(instrument_name="poolguard.*", aggregation=DropAggregation()))
    await checkouts(engine(), 5)
    assert reader.values().keys() == {"wait_time", "use_time", "create_time", "timeouts"}
    assert reader.values()["use_time"][0] == 5


@pytest.mark.parametrize("temporality", [{}, DELTA], ids=["cumulative", "delta"])
async def test_exponential_histogram(seen_through, temporality):
    """The same samples fill an exponential histogram, long waits and short ones."""
    views = [View(instrument_name=name, aggregation=ExponentialBucketHistogramAggregation()) for name in (WAIT, USE)]
    _, reader = seen_through(*views, preferred_temporality=temporality)
    db = engine(FakeDriver(connect=Gate.SLOW), pool_size=1, max_overflow=0)
    await asyncio.gather(*await queue_up(db, [], "a", "b", "c", hold=2.0))
    await checkouts(db, 4)
    points = reader.points()
    wait, use = points["wait_time"], points["use_time"]
    assert (wait.count, wait.sum, wait.zero_count, sum(wait.positive.bucket_counts)) == (7, 0.25 + 2.25 + 4.25, 4, 3)
    assert (use.count, use.sum) == (7, 6.0)


async def test_fewer_attributes(seen_through):
    """Without the pool's name all pools are one series, and their counters add up."""
    _, reader = seen_through(View(instrument_name="*", attribute_keys={"db.client.connection.state", "poolguard.reason"}))
    await checkouts(engine(), 2)
    await checkouts(engine(), 3)
    (use,) = reader.metrics()[USE].data.data_points
    assert (use.count, dict(use.attributes)) == (5, {})
