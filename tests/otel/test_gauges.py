"""What is, is read from the ledger at export: it cannot drift."""

from __future__ import annotations

import asyncio
import gc
import types

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, breaker_of, engine, ledger_of, pool_of, queue_up
from doubles.virtual import turns
from sqlalchemy import event

from sqla_poolguard import DatabaseUnavailable, Guard
from sqla_poolguard._connects import BreakerState
from sqla_poolguard._facts import Reason
from sqla_poolguard._finding import LeakKind
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._otel import observe
from sqla_poolguard._slots import Slots

LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"


def gauges(sdk, pool=None):
    """Collect, without the histograms and counters, and without what the conventions have no name for."""
    found = sdk.values(pool).items()
    return {key: value for key, value in found if not isinstance(value, tuple) and not key.startswith(("poolguard.", "timeouts"))}


async def test_gauges_of_a_busy_pool(sdk):
    """Idle, used, limits and pending requests are as the pool has them at that moment."""
    db = engine(pool_size=2, max_overflow=1, guard=Guard(name="busy"))
    async with all_out(db, 3):
        tasks = await queue_up(db, [], "a", "b")
        assert gauges(sdk) == {
            "count idle": 0,
            "count used": 3,
            "idle.max": 2,
            "idle.min": 0,
            "max": 3,
            "pending_requests": 2,
        }
    await asyncio.gather(*tasks)
    assert gauges(sdk) | {"count idle": 2, "count used": 0, "pending_requests": 0} == gauges(sdk)


async def test_unused_engine_is_seen(sdk):
    """An engine that nobody used yet shows its limits and its zeros."""
    db = engine(pool_size=2, max_overflow=1)
    assert gauges(sdk) == {"count idle": 0, "count used": 0, "idle.max": 2, "idle.min": 0, "max": 3, "pending_requests": 0}
    await db.dispose()


async def test_refusals_are_counted_by_reason(sdk):
    """Every reason, be it that it has not occurred yet, and what `fail_fast=True` would have refused, are as the ledger has them."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1, guard=Guard(max_waiting=1))
    async with all_out(db, 1):
        await asyncio.gather(*await queue_up(db, [], "a", "b"), return_exceptions=True)
    found = sdk.values()
    assert {reason: found[f"poolguard.rejections {reason}"] for reason in Reason} == ledger_of(db).rejected
    assert {reason for reason, count in ledger_of(db).rejected.items() if count} == {Reason.QUEUE_FULL, Reason.TIMEOUT}
    assert found["poolguard.would_reject"] == 0
    ledger_of(db).totals.would_reject = 3
    assert sdk.values()["poolguard.would_reject"] == 3


@pytest.mark.filterwarnings(LEAK)
async def test_leaks_are_counted_by_kind(sdk):
    """Each kind is there from the beginning; a connection that the garbage collector found is counted once."""
    db = engine()
    kinds = [f"poolguard.leaks {kind}" for kind in LeakKind]
    assert [sdk.values()[kind] for kind in kinds] == [0, 0, 0]
    leaked = await db.connect()
    del leaked
    gc.collect()
    await turns()
    found = sdk.values()
    assert {kind: found[kind] for kind in kinds} == {
        "poolguard.leaks garbage_collected": 1,
        "poolguard.leaks orphaned": 0,
        "poolguard.leaks reclaimed": 0,
    }


class Down(FakeDriver):
    """A server that is down, until it is not."""

    is_up = False

    def open(self):
        """Refuse."""
        if not self.is_up:
            raise ConnectionRefusedError
        return super().open()


async def test_state_of_the_breaker(sdk):
    """The state in which the breaker is has 1, and the others 0; and so it is again when the database is back."""
    driver = Down()
    db = engine(driver, guard=Guard(max_wait=0.5))
    states = [f"poolguard.breaker.state {state}" for state in BreakerState]

    def seen():
        values = sdk.values()
        return {state.rpartition(" ")[2] for state in states if values[state] == 1}, sum(values[state] for state in states)

    assert seen() == ({"closed"}, 1)
    with pytest.raises(DatabaseUnavailable):
        await db.connect()
    assert seen() == ({str(breaker_of(db).state)}, 1)
    assert breaker_of(db).state is not BreakerState.CLOSED
    driver.is_up = True
    await asyncio.sleep(5)
    assert seen() == ({"closed"}, 1)


async def test_without_a_breaker_there_is_no_state(sdk):
    """A pool whose breaker never opens does not claim that all is well."""
    engine(guard=Guard(breaker=False))
    assert [key for key in sdk.values() if "breaker" in key] == []


@pytest.mark.parametrize(
    ("size", "overflow", "limits"),
    [(2, -1, {"idle.max": 2}), (0, 10, {}), (2, 0, {"idle.max": 2, "max": 2})],
)
async def test_what_is_unlimited_has_no_limit(sdk, size, overflow, limits):
    """`max` is left out when the pool has no limit, `idle.max` when it keeps whatever comes."""
    db = engine(pool_size=size, max_overflow=overflow)
    async with db.connect():
        found = gauges(sdk)
    assert {key: value for key, value in found.items() if key.endswith("max")} == limits


async def test_limits_follow_the_size(sdk):
    """A pool that was resized shows its new limits at once."""
    db = engine(pool_size=2, max_overflow=1)
    pool_of(db).resize(4, 3)
    assert {key: value for key, value in gauges(sdk).items() if key.endswith("max")} == {"idle.max": 4, "max": 7}
    await db.dispose()


async def test_connecting_is_neither_idle_nor_used(sdk):
    """A connection that is being opened is a pending request, and no connection yet."""
    driver = FakeDriver(connect=Gate.NEVER)
    db = engine(driver)
    (task,) = await queue_up(db, [], "opens")
    found = gauges(sdk)
    assert (found["count idle"], found["count used"], found["pending_requests"]) == (0, 0, 1)
    driver.let("connect")
    await task


async def test_detached_and_invalidated_are_gone(sdk):
    """What left the pool, or was closed, is counted nowhere."""
    db = engine()
    async with all_out(db, 3) as (one, two, _):
        (await one.get_raw_connection()).detach()
        await two.invalidate()
        found = gauges(sdk)
        assert (found["count idle"], found["count used"]) == (0, 1)
    found = gauges(sdk)
    assert (found["count idle"], found["count used"]) == (1, 0)


@pytest.mark.filterwarnings(LEAK)
async def test_leaked_is_gone(sdk):
    """A connection that the garbage collector found is neither used nor idle."""
    db = engine()
    leaked = await db.connect()
    assert gauges(sdk)["count used"] == 1
    del leaked
    gc.collect()
    await turns()
    found = gauges(sdk)
    assert (found["count idle"], found["count used"]) == (0, 0)


async def test_dispose_shows_both_generations(sdk):
    """After `dispose()` what is still out is used, the limits are counted once, and nothing is counted twice."""
    db = engine(pool_size=2, max_overflow=1)
    async with all_out(db, 2):
        await db.dispose()
        async with all_out(db, 3):
            found = gauges(sdk)
            assert (found["count used"], found["max"], found["idle.max"]) == (5, 3, 2)
    found = gauges(sdk)
    assert (found["count idle"], found["count used"]) == (2, 0)


async def test_dispose_without_closing_shows_limits_once(sdk):
    """After `dispose(close=False)` two pools live; the limits are still those of one."""
    db = engine(pool_size=2, max_overflow=1)
    async with all_out(db, 2):
        before = pool_of(db)
        await db.dispose(close=False)
        assert pool_of(db) is not before
        found = gauges(sdk)
        assert (found["count used"], found["max"], found["idle.max"]) == (2, 3, 2)


async def test_two_engines_with_one_url_are_two_series(sdk):
    """Engines on the same database have different names, and figures of their own."""
    first, second = engine(), engine()
    async with all_out(first, 2), all_out(second, 1):
        name, other = pool_of(first).name, pool_of(second).name
        assert name != other
        assert gauges(sdk, name)["count used"] == 2
        assert gauges(sdk, other)["count used"] == 1


async def test_collected_engine_has_no_gauges(sdk):
    """What is no more is not shown as it was last, by an SDK that is asked again and again."""
    db = engine(guard=Guard(name="passing"))
    async with db.connect():
        pass
    assert gauges(sdk, "passing")["count idle"] == 1
    await db.dispose()
    del db
    gc.collect()
    assert gauges(sdk, "passing") == {}


@pytest.mark.filterwarnings(LEAK)
async def test_collected_engine_has_told_its_totals(cumulative_and_delta):
    """What was counted after the last export, and before the engine was collected, reaches every reader."""
    cumulative, delta = cumulative_and_delta.readers
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1, guard=Guard(name="passing"))
    name = pool_of(db).name
    async with all_out(db, 1):
        await asyncio.gather(*await queue_up(db, [], "in vain"), return_exceptions=True)
    leaked = await db.connect()
    await db.dispose()
    del leaked, db
    gc.collect()
    await turns()
    gc.collect()
    for reader in (cumulative, delta):
        found = reader.values(name)
        assert "count used" not in found
        assert (found["timeouts"], found["poolguard.rejections timeout"], found["poolguard.leaks garbage_collected"]) == (1, 1, 1)


async def test_gauges_are_the_truth_of_the_server(sdk):
    """Idle and used together are what the server sees."""
    driver = FakeDriver()
    db = engine(driver, pool_size=3, max_overflow=2)
    async with all_out(db, 5):
        assert gauges(sdk)["count used"] == driver.open_now == 5
    found = gauges(sdk)
    assert found["count idle"] + found["count used"] == driver.open_now == 3
    ledger_of(db).check()


def test_retired_generation_sets_no_limit(sdk):
    """A disposed pool that nothing took the place of keeps no connections, and shows no limit."""
    ledger, slots = Ledger(), Slots(2, 1)
    observe(ledger, "retired")
    ledger.open_pool(slots)
    assert gauges(sdk)["max"] == 3
    slots.retire()
    assert gauges(sdk).keys() == {"count idle", "count used", "idle.min", "pending_requests"}


def test_record_without_a_connection_is_not_idle(sdk):
    """Idle are connections that are open, not records that wait to be connected anew."""
    ledger, slots = Ledger(), Slots(2, 1)
    observe(ledger, "half empty")
    ledger.open_pool(slots)
    slots.idle.extend(types.SimpleNamespace(dbapi_connection=connection) for connection in (None, object()))
    assert gauges(sdk)["count idle"] == 1


async def test_another_that_counts_is_seen_in_every_generation(sdk):
    """Who listens to the pool that an engine has made since is seen as well, and so is one whose listeners came along."""

    class Theirs:
        connections_usage = types.SimpleNamespace(name="db.client.connection.count")

        def checkout(self, *_):
            pass

    Theirs.__module__ = "opentelemetry.instrumentation.sqlalchemy.engine"
    first, second = engine(pool_size=2), engine(pool_size=2)
    for db in first, second:
        async with all_out(db, 1):
            pass
    event.listen(first.sync_engine, "checkout", Theirs().checkout)
    await first.dispose()
    await second.dispose()
    event.listen(second.sync_engine, "checkout", Theirs().checkout)
    for db in first, second:
        found = gauges(sdk, pool_of(db).name)
        assert found["idle.max"] == 2
        assert "count idle" not in found
