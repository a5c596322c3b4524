"""`snapshot()`, `repr`, and the errors that a pool raises: what a person sees of it."""

from __future__ import annotations

import asyncio
import pickle
import re

import pytest
import sqlalchemy.exc
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, engine, pool_of, queue_up
from doubles.virtual import turns
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, Guard, GuardedPool, snapshot
from sqla_poolguard._facts import shorten


async def test_snapshot_shows_who_holds_and_who_waits():
    """Counts, holders with the longest first, waiters with the oldest first."""
    db = engine(pool_size=2, max_overflow=0, guard=Guard(name="seen"))
    first = await db.connect()
    await asyncio.sleep(1)
    second = await db.connect()
    tasks = await queue_up(db, [], "w1", "w2")
    await asyncio.sleep(2)
    snap = snapshot(db)
    assert (snap.pool, snap.pool_size, snap.max_overflow, snap.limit) == ("seen", 2, 0, 2)
    assert (snap.idle, snap.used, snap.connecting, snap.waiting) == (0, 2, 0, 2)
    assert [holder.held for holder in snap.holders] == [3.0, 2.0]
    assert [(waiter.task, waiter.waited, waiter.held) for waiter in snap.waiters] == [("w1", 2.0, 0.0), ("w2", 2.0, 0.0)]
    assert {shorten(holder.site.file) for holder in snap.holders} == {shorten(__file__)}
    assert (snap.requested, snap.granted, snap.opened) == (4, 2, 2)
    assert str(snap) == "pool 'seen' 2+0, 2 out, 0 idle, 2 waiting"
    for connection in (first, second):
        await connection.close()
    await asyncio.gather(*tasks)
    after = snapshot(db)
    assert (after.idle, after.used, after.waiting, after.holders, after.waiters) == (2, 0, 0, (), ())
    assert after.ended["checked_in"] == 4
    assert snap.used == 2, "a snapshot does not change"


async def test_snapshot_counts_connecting():
    """A connection that is being opened is neither idle nor used."""
    driver = FakeDriver(connect=Gate.NEVER)
    db = engine(driver, guard=Guard(name="opening"))
    tasks = await queue_up(db, [], "a", "b")
    snap = snapshot(db)
    assert (snap.idle, snap.used, snap.connecting, snap.waiting) == (0, 0, 2, 2)
    assert str(snap) == "pool 'opening' 5+10, 0 out, 0 idle, 2 connecting, 2 waiting"
    driver.let("connect")
    await asyncio.gather(*tasks)


async def test_snapshot_takes_engine_sync_engine_or_pool():
    """Whatever one has in hand will do."""
    db = engine(guard=Guard(name="in-hand"))
    assert {snapshot(each).pool for each in (db, db.sync_engine, pool_of(db))} == {"in-hand"}
    assert snapshot(db.execution_options(isolation_level="AUTOCOMMIT")).pool == "in-hand"


@pytest.mark.parametrize("foreign", ["stock engine", AsyncSession(), None, 5])
def test_snapshot_refuses_what_has_no_guarded_pool(foreign):
    """Anything else is a TypeError that says what is wanted and what came."""
    if foreign == "stock engine":
        foreign = create_async_engine("postgresql+asyncpg://u:secret@h/db")
    with pytest.raises(TypeError, match="poolclass=GuardedPool") as caught:
        snapshot(foreign)
    assert "secret" not in str(caught.value)


async def test_snapshot_can_be_pickled():
    """A snapshot crosses a process boundary whole."""
    db = engine()
    async with all_out(db, 2):
        snap = snapshot(db)
    assert pickle.loads(pickle.dumps(snap)) == snap


async def test_repr_shows_the_state():
    """`repr(pool)` says how many are out, idle and waiting."""
    db = engine(guard=Guard(name="shown"))
    async with all_out(db, 2):
        assert repr(pool_of(db)) == "<TimedPool pool 'shown' 5+10, 2 out, 0 idle, 0 waiting>"
    assert isinstance(pool_of(db), GuardedPool)


async def test_status_is_that_of_sqlalchemy():
    """`pool.status()` and the counts behind it read as the stock pool's do."""
    db = engine(pool_size=2, max_overflow=3)
    out = [await db.connect() for _ in range(3)]
    pool = pool_of(db)
    expected = "Pool size: 2  Connections in pool: 0 Current Overflow: 1 Current Checked out connections: 3"
    assert pool.status() == expected
    for connection in out:
        await connection.close()
    assert (pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow()) == (2, 2, 0, 0)


async def test_timeout_names_the_holders():
    """A CheckoutTimeout is a sqlalchemy.exc.TimeoutError that names who holds the connections, and where."""
    db = engine(pool_size=2, max_overflow=0, pool_timeout=3, guard=Guard(name="orders"))
    async with all_out(db, 2):
        with pytest.raises(sqlalchemy.exc.TimeoutError) as caught:
            await db.connect()
    error = caught.value
    assert type(error) is CheckoutTimeout
    head, holders, *_ = str(error).splitlines()
    assert head == "no connection after 3.00 s: pool 'orders' 2+0, 2 out, 0 idle, 0 waiting"
    assert re.fullmatch(r"    2 x  \S*doubles/pools.py:\d+ in all_out   held 3.0 s \(Background .*3o7r\)", holders)
    assert (error.code, error.status_code, error.reason, error.snapshot.used) == ("3o7r", 503, "timeout", 2)


async def test_retry_after_spreads_a_crowd():
    """Those who are turned away together are told different times, none of them beyond 30 s."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(max_waiting=0))
    held = await db.connect()
    await asyncio.sleep(2)
    times = []
    for _ in range(40):
        with pytest.raises(CheckoutRejected) as caught:
            await db.connect()
        times.append(caught.value.retry_after)
    assert times == sorted(times)
    assert times[:3] == [4.0, 8.0, 12.0]
    assert times[-1] == 30.0
    await held.close()


async def test_crowd_that_is_refused_together_shares_one_look():
    """Errors raised within a moment carry the same snapshot, so that a crowd costs one look."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    errors = []

    async def ask():
        with pytest.raises(CheckoutTimeout) as caught:
            await db.connect()
        errors.append(caught.value)

    async with all_out(db, 1):
        await asyncio.gather(*(ask() for _ in range(50)))
    assert len({id(error.snapshot) for error in errors}) == 1
    await turns()


@pytest.mark.parametrize("refused", ["not waiting", "queue full"])
async def test_error_names_who_holds_now(refused):
    """A look is shared only while nobody gets or gives back: the error never names who held a moment ago."""
    limit = {"pool_timeout": 0} if refused == "not waiting" else {"guard": Guard(max_waiting=0)}
    db = engine(pool_size=1, max_overflow=0, **limit)

    async def first():
        return await db.connect()

    async def second():
        return await db.connect()

    for holder in (first, second, first):
        connection = await holder()
        for _ in range(2):
            with pytest.raises(sqlalchemy.exc.TimeoutError) as refusal:
                await db.connect()
            assert holder.__name__ in str(refusal.value)
            (named,) = refusal.value.snapshot.holders
            assert named.site.function.endswith(holder.__name__)
        await connection.close()
