"""What a checkout may cost, in bytecodes and calls: the same on every machine, and so no benchmark."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import pathlib
import sys
import threading

import pytest
from doubles.driver import greenlet_spawn
from doubles.pools import TimedPool, engine, pool_of
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy.pool import AsyncAdaptedQueuePool

import sqla_poolguard
from sqla_poolguard import GuardedPool
from sqla_poolguard._ledger import SAMPLES_KEPT
from sqla_poolguard._private import LINE_2_1

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with Python 3.12")

OURS = str(pathlib.Path(sqla_poolguard.__file__).parent)
CEILINGS = {"fast": 525, "safe": 465}
"""Bytecodes of our own for one checkout and checkin that need not wait, call site included; on the safe lane SQLAlchemy adds its."""
WAITING_CEILINGS = {"fast": 1_475, "safe": 1_930}
"""Likewise for one that has to wait, in a queue that is short."""
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


@contextlib.contextmanager
def observing(events, note):
    """Note what the interpreter does meanwhile, in this thread."""
    monitoring, here = sys.monitoring, threading.get_ident()

    def note_here(*told):
        if threading.get_ident() == here:  # pytest's plugins have threads, too
            note(*told)

    monitoring.use_tool_id(monitoring.PROFILER_ID, "test_cost")
    gc.collect()
    gc.disable()  # what other tests have left behind is not this checkout's to clear up
    for event in events:
        monitoring.register_callback(monitoring.PROFILER_ID, event, note_here)
    monitoring.set_events(monitoring.PROFILER_ID, sum(events))
    try:
        yield
    finally:
        monitoring.set_events(monitoring.PROFILER_ID, 0)
        monitoring.free_tool_id(monitoring.PROFILER_ID)
        gc.enable()


async def observe(pool, events, note, measured=TIMES):
    """Check out and in several times, and note what the interpreter does meanwhile."""

    def checkouts(times):
        for _ in range(times):
            pool.connect().close()

    def observed():
        checkouts(3)
        with observing(events, note):
            checkouts(measured)

    await greenlet_spawn(observed)


async def bytecodes(pool, times=TIMES):
    """Count the bytecodes of one checkout and checkin: all of the pool's side, and those of our package."""
    counts = collections.Counter()

    def note(code, _offset):
        counts[code.co_filename] += 1

    await observe(pool, [sys.monitoring.events.INSTRUCTION], note, times)
    test = counts.pop(__file__)
    assert test / times < 30, "the test itself weighs little"
    return sum(counts.values()) / times, sum(count for file, count in counts.items() if file.startswith(OURS)) / times


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


PROVIDERS = {
    "no SDK": lambda: None,
    "an SDK": lambda: MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False),
}


@pytest.mark.parametrize("sdk", PROVIDERS)
async def test_telemetry_adds_nothing_to_a_checkout(instant, sdk):
    """With telemetry on, an SDK or none, a checkout takes as many bytecodes as with it off: it leaves a sample in either case."""
    off, _ = await bytecodes(instant(GuardedPool.configure(telemetry=False)))
    on, _ = await bytecodes(instant(GuardedPool.configure(meter_provider=PROVIDERS[sdk]())))
    assert on == off


async def test_telemetry_adds_nothing_when_the_buffer_is_full(instant):
    """Without an SDK the buffer fills, and its oldest samples are forgotten, many at once: that costs about as much as one by one."""
    counts = {}
    for telemetry in (False, True):
        pool = instant(GuardedPool.configure(telemetry=telemetry))
        pool._ledger.samples.extend([(0.0, 0.0)] * (SAMPLES_KEPT + 1))
        counts[telemetry], _ = await bytecodes(pool, 520)  # twice as many as are forgotten at once
        assert len(pool._ledger.samples) <= SAMPLES_KEPT + 1
    assert counts[True] <= counts[False] + 2


@pytest.mark.parametrize("sdk", PROVIDERS)
async def test_nothing_is_measured_or_logged_on_the_way(instant, lane, sdk):
    """No function of OpenTelemetry or of `logging` is called; on the safe lane SQLAlchemy itself asks its logger."""
    called = collections.Counter()

    def note(_code, _offset, function, _first):
        called[getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__] += 1

    await observe(instant(GuardedPool.configure(meter_provider=PROVIDERS[sdk]())), [sys.monitoring.events.CALL], note)
    assert called["sqla_poolguard._ledger"] >= TIMES
    assert not [module for module in called if module.startswith(("opentelemetry", "sqla_poolguard._otel"))]
    if lane == "fast":
        assert not [module for module in called if module.startswith(("logging", "sqla_poolguard._logs"))]


async def take_turns(pool, hold, times, tasks=4):
    """Have some tasks take turns on one connection, so that each checkout but the first waits in the queue."""

    async def one():
        for _ in range(times):
            connection = await greenlet_spawn(pool.connect)
            await asyncio.sleep(hold)
            await greenlet_spawn(connection.close)

    await asyncio.gather(*[one() for _ in range(tasks)])


async def in_the_queue(hold, events, note, **options):
    """Note what the interpreter does while connections are waited for, without an SDK."""
    pool = pool_of(engine(pool=TimedPool.configure(**options), pool_size=1, max_overflow=0))
    await take_turns(pool, hold, 3)
    with observing(events, note):
        await take_turns(pool, hold, TIMES)


async def test_a_checkout_that_waits_keeps_below_its_ceiling(lane):
    """All that is on by default is on."""
    counted = collections.Counter()
    await in_the_queue(0, [sys.monitoring.events.INSTRUCTION], lambda code, _: counted.update((code.co_filename,)))
    own = sum(count for file, count in counted.items() if file.startswith(OURS))
    assert own / (TIMES * 4) <= WAITING_CEILINGS[lane]


@pytest.mark.parametrize("lane", ["fast"], indirect=True)
async def test_a_short_wait_passes_much_by():
    """It leaves no trail, has no timer set, and asks no proxy for an SDK."""
    called = collections.Counter()
    await in_the_queue(0, [sys.monitoring.events.PY_START], lambda code, _: called.update((code.co_qualname,)))
    assert called["Handover.wait"] > TIMES * 3
    for function in ("Course.__init__", "Sweeper.wake_by", "ProxyTracer._tracer", "Admission.look"):
        assert called[function] <= 1, function


@pytest.mark.parametrize(("hold", "most"), [(0, 1.03), (0.06, 1.06)], ids=["short waits", "waits worth seeing"])
async def test_telemetry_adds_next_to_nothing_in_the_queue_without_an_sdk(hold, most):
    """Who waits, and who gives back while others wait, asks whether there is an SDK, and leaves it at that: all bytecodes, asyncio's included."""
    counts = {}
    for telemetry in (False, True):
        counted = collections.Counter()
        await in_the_queue(
            hold, [sys.monitoring.events.INSTRUCTION], lambda code, _, found=counted: found.update((code,)), telemetry=telemetry
        )
        del counted[
            asyncio.TimerHandle.__lt__.__code__
        ]  # the second of the two finds the first one's timers in the loop, and sorts more
        counts[telemetry] = counted
    assert counts[True].total() <= most * counts[False].total()
    found = {code.co_qualname for code in counts[True] if "opentelemetry" in code.co_filename}
    assert found <= {"ProxyTracer._tracer"}, "nothing else of OpenTelemetry's runs"
