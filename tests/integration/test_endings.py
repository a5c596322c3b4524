"""The endings table: every way in which a checkout can end, on every driver, as the books show it."""

from __future__ import annotations

import asyncio
import gc

import pytest
from doubles.driver import greenlet_spawn
from doubles.pools import at_rest, ended, ledger_of, pool_of, rejected
from doubles.virtual import until
from sqlalchemy import event, text
from sqlalchemy.exc import SAWarning

from sqla_poolguard import CheckoutTimeout, DatabaseUnavailable, Guard

LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"


@pytest.fixture
async def db(land):
    """Give an engine with one connection and one more as overflow; at the end the books must balance, and nothing be open."""
    engine = land.engine(pool_size=1, max_overflow=1, pool_timeout=20, guard=Guard(name="table"))
    yield engine
    land.up()
    await engine.dispose()
    at_rest(engine, idle=0)
    assert land.driver.live == 0
    books = ledger_of(engine)
    assert books.opened == books.closed + books.departed


def opened_and_gone(engine):
    """Give the counts of physical connections: (opened, closed by the pool, departed)."""
    books = ledger_of(engine)
    return books.opened, books.closed, books.departed


async def no_probe(engine):
    """Wait while the pool finds out whether the database is back."""
    await until(lambda: not pool_of(engine)._slots.taken)


async def test_normal(db):
    """Closed: checked in, and idle."""
    async with db.connect() as connection:
        await connection.execute(text("SELECT 1"))
    assert (ended(db), rejected(db)) == ({"checked_in": 1}, {})
    assert opened_and_gone(db) == (1, 0, 0)
    at_rest(db, idle=1)


async def test_after_an_error(db):
    """Left by an exception: checked in, and idle."""
    with pytest.raises(ZeroDivisionError):
        async with db.begin():
            raise ZeroDivisionError
    assert ended(db) == {"checked_in": 1}
    at_rest(db, idle=1)


async def test_above_pool_size(db):
    """Returned above `pool_size`: checked in, and closed."""
    one, two = await db.connect(), await db.connect()
    await one.close()
    await two.close()
    assert ended(db) == {"checked_in": 2}
    assert opened_and_gone(db) == (2, 1, 0)
    at_rest(db, idle=1)


async def test_timeout(db, monkeypatch):
    """Waited in vain: rejected as a timeout; nothing ended."""
    over = asyncio.Event()

    async def others():  # that do not wait for us: that would be a deadlock
        async with db.connect(), db.connect():
            await over.wait()

    holding = asyncio.create_task(others())
    await until(lambda: len(ledger_of(db).leases()) == 2)
    monkeypatch.setattr(pool_of(db)._supply, "_patience", 0.05)  # from here on, so that no slow connect runs into it
    with pytest.raises(CheckoutTimeout):
        await db.connect()
    assert (ended(db), rejected(db)) == ({}, {"timeout": 1})
    ledger_of(db).check()
    over.set()
    await holding
    at_rest(db, idle=1)


async def test_cancelled_while_waiting(db):
    """Cancelled in the queue: rejected as cancelled; nothing ended."""
    one, two = await db.connect(), await db.connect()
    asking = asyncio.create_task(db.connect().start())
    await until(lambda: len(pool_of(db)._slots.waiters))
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert (ended(db), rejected(db)) == ({}, {"cancelled": 1})
    ledger_of(db).check()
    await one.close()
    await two.close()
    at_rest(db, idle=1)


async def test_connect_fails(land, db):
    """The database is down: rejected, with its error as the cause; the slot is free."""
    land.down()
    with pytest.raises(DatabaseUnavailable, match=r"down|refuses"):
        await db.connect()
    assert (ended(db), rejected(db)) == ({}, {"unavailable": 1})
    await no_probe(db)
    at_rest(db, idle=0)


@pytest.mark.parametrize("when", ["first connect", "reconnect"])
async def test_connect_listener_fails(db, when):
    """A connection that is opened, refused by a listener and closed by SQLAlchemy is counted as both; the slot is free."""
    if when == "reconnect":
        connection = await db.connect()
        raw = await connection.get_raw_connection()
        await greenlet_spawn(raw.invalidate, soft=True)
        await connection.close()

    @event.listens_for(db.sync_engine, "connect")
    def refuse(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await db.connect()
    assert rejected(db) == {"connect_failed": 1}
    opened = 2 if when == "reconnect" else 1
    assert opened_and_gone(db) == (opened, opened, 0)
    at_rest(db, idle=0)
    event.remove(db.sync_engine, "connect", refuse)


async def test_ping_fails_and_reconnect_fails(land):
    """Pre-ping finds the connection dead and the database down: rejected; nothing was granted, nothing ended."""
    engine = land.engine(pool_size=1, max_overflow=0, pool_pre_ping=True)
    await (await engine.connect()).close()
    land.down()
    with pytest.raises(DatabaseUnavailable, match=r"down|refuses"):
        await engine.connect()
    assert (ended(engine), rejected(engine)) == ({"checked_in": 1}, {"unavailable": 1})
    assert opened_and_gone(engine) == (1, 1, 0)
    await no_probe(engine)
    at_rest(engine, idle=0)


async def test_ping_fails_and_reconnect_succeeds(land):
    """Pre-ping finds the connection dead and opens another: the checkout that follows ends as checked in, not as invalidated."""
    engine = land.engine(pool_size=1, max_overflow=0, pool_pre_ping=True)
    await (await engine.connect()).close()
    dialect, answers = engine.sync_engine.dialect, iter([False])
    ping = dialect.do_ping
    dialect.do_ping = lambda connection: next(answers, None) is not False and ping(connection)
    await (await engine.connect()).close()
    assert (ended(engine), rejected(engine)) == ({"checked_in": 2}, {})
    assert opened_and_gone(engine) == (2, 1, 0)
    at_rest(engine, idle=1)
    await engine.dispose()


async def test_invalidated(db):
    """Invalidated: ended as such, closed, and the slot is free."""
    connection = await db.connect()
    await connection.invalidate()
    await connection.close()
    assert ended(db) == {"invalidated": 1}
    assert opened_and_gone(db) == (1, 1, 0)
    at_rest(db, idle=0)


async def test_soft_invalidated(db):
    """Softly invalidated: ended as such, kept idle, and connected anew by whoever takes it next."""
    connection = await db.connect()
    raw = await connection.get_raw_connection()
    await greenlet_spawn(raw.invalidate, soft=True)
    await connection.close()
    assert ended(db) == {"invalidated": 1}
    assert opened_and_gone(db) == (1, 0, 0)
    at_rest(db, idle=1)
    async with db.connect():
        assert opened_and_gone(db) == (2, 1, 0)
    assert ended(db) == {"invalidated": 1, "checked_in": 1}


async def test_detached(land, db):
    """Detached: ended at that moment; the connection lives on without the pool, whose slot is free."""
    connection = await db.connect()
    raw = await connection.get_raw_connection()
    driver_side = raw.dbapi_connection
    getattr(driver_side, "leave", int)()
    raw.detach()
    assert ended(db) == {"detached": 1}
    assert opened_and_gone(db) == (1, 0, 1)
    at_rest(db, idle=0)
    await connection.close()
    assert ended(db) == {"detached": 1}
    assert driver_side is not None
    assert land.driver.open_now == 0


@pytest.mark.filterwarnings(LEAK)
async def test_leaked(db):
    """Never closed: ended as leaked when it is collected, and the slot is free."""
    connection = await db.connect()
    circle = [connection]
    circle.append(circle)
    del connection, circle
    gc.collect()
    await asyncio.sleep(0)
    assert ended(db) == {"leaked": 1}
    assert opened_and_gone(db) == (1, 0, 1)
    at_rest(db, idle=0)


async def test_leak_is_still_warned_of(db):
    """SQLAlchemy's warning of a leak reaches the program."""
    connection = await db.connect()
    circle = [connection]
    circle.append(circle)
    del connection, circle
    with pytest.warns(SAWarning, match="garbage collector is trying to clean up non-checked-in connection"):
        gc.collect()
    assert ended(db) == {"leaked": 1}


async def test_closed_after_dispose(db):
    """Closed after the engine was disposed of: checked in, in the same books, and closed."""
    connection = await db.connect()
    await db.dispose()
    await connection.close()
    assert ended(db) == {"checked_in": 1}
    assert opened_and_gone(db) == (1, 1, 0)
    at_rest(db, idle=0)


async def test_closed_twice(db):
    """Closing again is nothing."""
    connection = await db.connect()
    await connection.close()
    await connection.close()
    assert ended(db) == {"checked_in": 1}
    at_rest(db, idle=1)


async def test_recycled(land):
    """A connection that is older than `pool_recycle` is connected anew; the checkout ends as any other."""
    db = land.engine(pool_size=1, max_overflow=0, pool_recycle=3600)
    await (await db.connect()).close()
    for record in pool_of(db)._slots.records:
        record.starttime -= 4000
    await (await db.connect()).close()
    assert ended(db) == {"checked_in": 2}
    assert opened_and_gone(db) == (2, 1, 0)
    at_rest(db, idle=1)
    await db.dispose()


async def test_recycle_set_on_a_pool_in_use(db):
    """SQLAlchemy's own tests set `_recycle` on a finished pool; it counts from then on."""
    await (await db.connect()).close()
    pool_of(db)._recycle = 3600
    for record in pool_of(db)._slots.records:
        record.starttime -= 4000
    await (await db.connect()).close()
    assert opened_and_gone(db) == (2, 1, 0)
    at_rest(db, idle=1)
