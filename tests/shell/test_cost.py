"""What a checkout may cost, in bytecodes and calls: the same on every machine, and so no benchmark."""

from __future__ import annotations

import collections
import pathlib
import sys

import pytest
from doubles.driver import greenlet_spawn
from doubles.pools import engine, pool_of
from sqlalchemy.pool import AsyncAdaptedQueuePool

import sqla_poolguard
from sqla_poolguard import GuardedPool
from sqla_poolguard._private import LINE_2_1

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with Python 3.12")

OURS = str(pathlib.Path(sqla_poolguard.__file__).parent)
CEILINGS = {"fast": 530, "safe": 470}
"""Bytecodes of our own for one checkout and checkin that need not wait, call site included; on the safe lane SQLAlchemy adds its."""
SHARE_OF_STOCK = 0.95 if LINE_2_1 else 1.1
"""Of all bytecodes that stock takes for it, SQLAlchemy's included. Its way is shorter on 2.0, but calls more, and takes longer."""
TIMES = 20


class Instant:
    """A connection that is rolled back in no time."""

    def rollback(self):
        """Do nothing."""

    def close(self):
        """Do nothing."""

    terminate = close


async def observe(pool, events, note):
    """Check out and in several times, and note what the interpreter does meanwhile."""
    monitoring = sys.monitoring

    def checkouts(times):
        for _ in range(times):
            pool.connect().close()

    def observed():
        checkouts(3)
        for event in events:
            monitoring.register_callback(monitoring.PROFILER_ID, event, note)
        monitoring.set_events(monitoring.PROFILER_ID, sum(events))
        try:
            checkouts(TIMES)
        finally:
            monitoring.set_events(monitoring.PROFILER_ID, 0)

    monitoring.use_tool_id(monitoring.PROFILER_ID, "test_cost")
    try:
        await greenlet_spawn(observed)
    finally:
        monitoring.free_tool_id(monitoring.PROFILER_ID)


async def bytecodes(pool):
    """Count the bytecodes of one checkout and checkin: all of the pool's side, and those of our package."""
    counts = collections.Counter()

    def note(code, _offset):
        counts[code.co_filename] += 1

    await observe(pool, [sys.monitoring.events.INSTRUCTION], note)
    test = counts.pop(__file__)
    assert test / TIMES < 30, "the test itself weighs little"
    return sum(counts.values()) / TIMES, sum(count for file, count in counts.items() if file.startswith(OURS)) / TIMES


@pytest.fixture
def instant():
    """Give a pool, of whatever class, on connections that cost nothing."""

    def make(cls):
        db = engine(pool=cls)
        pool_of(db)._creator = Instant
        return pool_of(db)

    return make


async def test_a_checkout_keeps_below_its_ceiling(instant, lane):
    """Everything that is on by default is on, and costs no more than is written above."""
    _, own = await bytecodes(instant(GuardedPool))
    assert own <= CEILINGS[lane]


async def test_a_checkout_against_that_of_stock(instant, lane):
    """On the fast lane, what is noted is saved elsewhere; the safe one leads through most of stock's code, and no more."""
    stock, _ = await bytecodes(instant(AsyncAdaptedQueuePool))
    total, own = await bytecodes(instant(GuardedPool))
    assert (total if lane == "fast" else total - own) <= SHARE_OF_STOCK * stock


async def test_nothing_is_measured_or_logged_on_the_way(instant, lane):
    """No function of OpenTelemetry or of `logging` is called; on the safe lane SQLAlchemy itself asks its logger."""
    called = collections.Counter()

    def note(_code, _offset, function, _first):
        called[getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__] += 1

    await observe(instant(GuardedPool), [sys.monitoring.events.CALL], note)
    assert called["sqla_poolguard._ledger"] >= TIMES
    assert not [module for module in called if module.startswith(("opentelemetry", "sqla_poolguard._otel"))]
    if lane == "fast":
        assert not [module for module in called if module.startswith(("logging", "sqla_poolguard._logs"))]
