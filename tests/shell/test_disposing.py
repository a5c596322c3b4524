"""`dispose()` and `recreate()`: what survives, what is closed, and when."""

from __future__ import annotations

import asyncio
import time

import pytest
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import Recorder, TimedPool, all_out, at_rest, ended, engine, ledger_of, pool_of, queue_up
from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import AsyncAdaptedQueuePool

from sqla_poolguard import Guard, GuardedPool
from sqla_poolguard._facts import shorten


async def test_dispose_closes_the_idle_connections():
    """After `engine.dispose()` nothing is open, and the engine opens anew."""
    driver = FakeDriver()
    db = engine(driver, pool_size=3)
    async with all_out(db, 3):
        pass
    await db.dispose()
    assert driver.open_now == 0
    async with db.connect():
        assert driver.open_now == 1
    at_rest(db, idle=1)


async def test_connection_of_a_retired_pool_is_closed_on_return():
    """What is out while the engine is disposed of is closed when it comes back, and settled in the same books."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2)
    out = [await db.connect() for _ in range(2)]
    old = pool_of(db)
    await db.dispose()
    assert pool_of(db) is not old
    assert [shorten(holder.site.file) for holder in pool_of(db).snapshot().holders] == [shorten(__file__)] * 2
    for connection in out:
        await connection.close()
    assert driver.open_now == 0
    assert old._slots.taken == 0
    assert ended(db) == {"checked_in": 2}
    at_rest(db, idle=0)


async def test_waiters_of_a_disposed_pool_are_served():
    """Who waits while the engine is disposed of gets a connection all the same, which is closed after use."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0)
    order = []
    out = [await db.connect() for _ in range(2)]
    tasks = await queue_up(db, order, *range(6))
    await db.dispose()
    for connection in out:
        await connection.close()
    await asyncio.gather(*tasks)
    assert order == list(range(6))
    assert driver.open_now == 0
    at_rest(db, idle=0)


async def test_recreate_keeps_books_name_guard_and_observers():
    """The pool that takes over carries on: same name, guard, options, observers and totals."""
    recorder = Recorder()
    guard = Guard(name="carried-on", observers=(recorder,), hold_warning=7)
    options = {
        "pool_size": 3,
        "max_overflow": 4,
        "pool_timeout": 6,
        "pool_use_lifo": True,
        "pool_pre_ping": True,
        "pool_recycle": 99,
        "pool_reset_on_return": "commit",
    }
    db = engine(guard=guard, **options)
    async with db.connect():
        pass
    old = pool_of(db)
    await db.dispose()
    new = pool_of(db)
    assert new is not old
    assert (new.name, new.guard) == ("carried-on", guard)
    assert new._ledger is old._ledger
    assert (new.size(), new._slots.limit, new.timeout()) == (3, 7, 6)
    for private in ("_use_lifo", "_pre_ping", "_recycle", "_reset_on_return", "_creator", "_dialect", "_orig_logging_name"):
        assert getattr(new, private) == getattr(old, private), private
    async with db.connect():
        pass
    snap = new.snapshot()
    assert (snap.requested, snap.granted, snap.opened, snap.ended["checked_in"]) == (2, 2, 2, 2)
    assert len(recorder.of("ended")) == 2


async def test_listeners_are_not_doubled_by_dispose():
    """After three disposals a connection still counts once, and a user's listener is called once."""
    db = engine()
    heard = []
    event.listen(db.sync_engine, "connect", lambda *_: heard.append("connect"))
    for _ in range(3):
        await db.dispose()
    async with db.connect() as connection:
        await connection.invalidate()
    assert heard == ["connect"]
    assert (ledger_of(db).opened, ledger_of(db).closed) == (1, 1)
    assert ended(db) == {"invalidated": 1}


async def test_plain_pool_dispose_stays_usable():
    """`pool.dispose()` without `recreate()` closes what is idle; the pool's limit holds and what returns is kept."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0)
    pool = pool_of(db)
    one, two = await db.connect(), await db.connect()
    await one.close()
    await greenlet_spawn(pool.dispose)
    assert driver.open_now == 1
    three = await db.connect()
    assert (driver.open_now, pool.checkedout()) == (2, 2)
    await two.close()
    await three.close()
    assert driver.open_now == 2
    assert pool.checkedin() == 2
    at_rest(db, idle=2)


async def test_dispose_without_close_leaves_the_old_connections_alone():
    """`dispose(close=False)`, as after a fork, neither closes what is idle nor what comes back later."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2)
    one, two = await db.connect(), await db.connect()
    await one.close()
    await db.dispose(close=False)
    await two.close()
    assert (driver.open_now, driver.begun["close"]) == (2, 0)
    async with db.connect():
        assert driver.opened == 3


async def test_plain_dispose_long_ago_does_not_retire_a_pool():
    """A `pool.dispose()` after which the pool was used again does not turn a later `dispose(close=False)` into a closing one."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2)
    await greenlet_spawn(pool_of(db).dispose)
    held = await db.connect()
    await db.dispose(close=False)
    await held.close()
    assert driver.begun["close"] == 0


async def test_dispose_survives_a_close_that_fails():
    """A connection that cannot be closed cleanly is gone from the books all the same, and the others are closed too."""
    driver = FakeDriver(close=Gate.ERROR)
    db = engine(driver, pool_size=3)
    async with all_out(db, 3):
        pass
    old = pool_of(db)
    await db.dispose()
    assert driver.begun["close"] == 3
    assert old._slots.taken == 0


async def test_dispose_while_a_connection_is_being_opened():
    """A connect that is under way while the engine is disposed of still serves its caller, and is closed on return."""
    driver = FakeDriver(connect=Gate.NEVER)
    db = engine(driver, pool_size=1)
    order = []
    tasks = await queue_up(db, order, "connecting")
    await db.dispose()
    driver.let("connect")
    await asyncio.gather(*tasks)
    assert order == ["connecting"]
    assert driver.open_now == 0
    at_rest(db, idle=0)


async def test_subclass_survives_recreate():
    """A pool recreates itself as its own class, defaults included."""

    class Mine(TimedPool):
        default_guard = Guard(hold_warning=9)

    db = engine(pool=Mine.configure(name="mine"))
    await db.dispose()
    pool = pool_of(db)
    assert isinstance(pool, Mine)
    assert (pool.guard.hold_warning, pool.name) == (9, "mine")


async def test_default_dialect_of_a_subclass():
    """A pool that is made without a dialect has its class's, or SQLAlchemy's; with one, it has that."""

    class Mine(GuardedPool):
        _dialect = DefaultDialect()

    given = DefaultDialect()
    for pool, dialect in [
        (GuardedPool(FakeDriver().open), AsyncAdaptedQueuePool._dialect),
        (Mine(FakeDriver().open), Mine._dialect),
        (Mine(FakeDriver().open, dialect=given), given),
        (Mine(FakeDriver().open).recreate(), Mine._dialect),
    ]:
        assert pool._dialect is dialect


async def test_idle_record_that_was_given_up_connects_anew_when_it_is_asked():
    """As SQLAlchemy's own does, whose tests ask; one that is out was found good when it was taken."""
    driver = FakeDriver()
    db = engine(driver)
    held = await (await db.connect()).get_raw_connection()
    record, first = held._connection_record, held.dbapi_connection
    pool_of(db)._invalidate_time = time.time() + 1
    assert await greenlet_spawn(record.get_connection) is first
    await greenlet_spawn(held.close)
    assert await greenlet_spawn(record.get_connection) is not first
    await db.dispose()


async def test_overdue_is_still_reported_after_dispose(caplog):
    """A connection of a retired pool that is held too long is reported as any other."""
    db = engine(guard=Guard(hold_warning=2))
    held = await db.connect()
    await db.dispose()
    await asyncio.sleep(3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await held.close()


@pytest.mark.parametrize("gate", [Gate.SLOW, Gate.ERROR])
async def test_limit_holds_while_idle_connections_are_closed(gate):
    """While a disposal closes slowly or fails to, the old pool counts the connection until it is gone."""
    driver = FakeDriver(close=gate)
    db = engine(driver, pool_size=1, max_overflow=0)
    async with db.connect():
        pass
    old = pool_of(db)
    closing = asyncio.create_task(greenlet_spawn(old.dispose))
    async with db.connect():
        assert driver.most == 1
    await closing
    assert isinstance(old, GuardedPool)
    at_rest(db, idle=1)
