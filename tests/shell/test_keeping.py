"""What is kept idle and for how long, what is pinged before it is handed out, and how long a close may take."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, at_rest, ended, engine, ledger_of, pool_of, queue_up, rejected
from doubles.virtual import VirtualLoop, elapsed, turns

from sqla_poolguard import CheckoutTimeout, DatabaseUnavailable, Guard


async def test_overflow_is_closed_at_once_by_default():
    """Without `overflow_linger` a connection above `pool_size` is closed as it comes back."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=2)
    async with all_out(db, 3):
        pass
    assert driver.open_now == 1
    assert elapsed() == 0.0
    at_rest(db, idle=1)


async def test_overflow_lingers():
    """With `overflow_linger` it is kept for so long, and closed then."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=2, guard=Guard(overflow_linger=2))
    async with all_out(db, 3):
        pass
    await asyncio.sleep(1.75)
    assert driver.open_now == 3
    at_rest(db, idle=3)
    await asyncio.sleep(0.5)
    assert driver.open_now == 1
    at_rest(db, idle=1)


async def test_lingering_connection_is_used_again():
    """A lingering connection is handed out; nothing new is opened."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=2, guard=Guard(overflow_linger=2))
    for _ in range(20):
        async with all_out(db, 3):
            await asyncio.sleep(1)
    assert driver.opened == 3
    await asyncio.sleep(10)
    at_rest(db, idle=1)
    assert driver.open_now == 1


async def test_lingering_connections_are_closed_by_dispose():
    """`dispose()` waits for no linger, neither for what is idle nor for what comes back later."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=2, guard=Guard(overflow_linger=60))
    held = await db.connect()
    async with all_out(db, 2):
        pass
    assert driver.open_now == 3
    await db.dispose()
    assert driver.open_now == 1
    await held.close()
    assert driver.open_now == 0


async def test_slot_of_a_lingering_connection_that_closes_slowly():
    """While a lingering connection is being closed its slot is taken; who waits for it gets it then."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=1, guard=Guard(overflow_linger=1))
    async with all_out(db, 2):
        pass
    driver.close = Gate.SLOW
    await asyncio.sleep(1)
    await turns(10)
    order = []
    tasks = await queue_up(db, order, "idle", "slot", hold=1)
    await asyncio.gather(*tasks)
    assert order == ["idle", "slot"]
    assert driver.most == 2
    await asyncio.sleep(5)
    at_rest(db, idle=1)


async def test_idle_connection_is_pinged_after_a_while():
    """With `ping_after` a connection that was idle for longer is pinged first; a fresh one is not."""
    driver = FakeDriver()
    db = engine(driver, guard=Guard(ping_after=10))
    await (await db.connect()).close()
    await asyncio.sleep(9)
    await (await db.connect()).close()
    assert driver.begun["ping"] == 0
    await asyncio.sleep(11)
    await (await db.connect()).close()
    assert driver.begun["ping"] == 1
    assert driver.opened == 1
    at_rest(db, idle=1)


async def test_dead_connection_is_replaced_before_it_is_handed_out():
    """A ping that fails costs a reconnect, not the caller; the checkout ends as any other."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, guard=Guard(ping_after=10))
    await (await db.connect()).close()
    await asyncio.sleep(11)
    driver.ping = Gate.ERROR
    async with db.connect():
        assert (driver.opened, driver.open_now) == (2, 1)
    assert ended(db) == {"checked_in": 2}
    at_rest(db, idle=1)


async def test_dead_connection_while_the_database_is_down():
    """Ping and reconnect fail: the caller is told why, after a blip that might have passed; the slot is free."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, guard=Guard(ping_after=10))
    await (await db.connect()).close()
    await asyncio.sleep(11)
    driver.ping = driver.connect = Gate.ERROR
    with pytest.raises(DatabaseUnavailable, match="OSError: the fake driver refuses to connect"):
        await db.connect()
    assert rejected(db) == {"unavailable": 1}
    at_rest(db, idle=0)
    assert driver.open_now == 0


async def test_ping_that_hangs_is_bounded_by_the_deadline():
    """`pool_timeout` covers this ping as well, but for the moment in which the connection may go politely."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=0.5, guard=Guard(ping_after=10))
    await (await db.connect()).close()
    await asyncio.sleep(11)
    driver.ping = Gate.NEVER
    begun = elapsed()
    with pytest.raises(CheckoutTimeout):
        await db.connect()
    assert elapsed() - begun == 0.5
    at_rest(db, idle=0)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_ping_that_is_cancelled_costs_the_connection_not_the_slot(cancelled):
    """Whether the ping ends well or is cancelled, the slot is usable afterwards."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, guard=Guard(ping_after=10))
    await (await db.connect()).close()
    await asyncio.sleep(11)
    driver.ping = Gate.NEVER
    order = []
    tasks = await queue_up(db, order, "pinging", "waiting")
    if cancelled:
        tasks[0].cancel()
    else:
        driver.let("ping")
    await asyncio.wait(tasks)
    assert order == (["waiting"] if cancelled else ["pinging", "waiting"])
    at_rest(db, idle=1)


async def test_termination_does_not_keep_the_caller_waiting():
    """A connection that does not close is cut off after a quarter of a second."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0)
    connection = await db.connect()
    driver.close = Gate.NEVER
    await connection.invalidate()
    assert elapsed() == 0.25
    assert driver.open_now == 0
    assert asyncio.current_task().cancelling() == 0
    await connection.close()
    assert ended(db) == {"invalidated": 1}
    at_rest(db, idle=0)


async def test_books_of_physical_connections_balance():
    """Opened = closed + departed + still there, whatever happened to them."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=2, guard=Guard(overflow_linger=1))
    async with all_out(db, 4) as out:
        await out[0].invalidate()
        raw = await out[1].get_raw_connection()
        raw.dbapi_connection.leave()
        raw.detach()
    await asyncio.sleep(3)
    books = ledger_of(db)
    assert (books.opened, books.closed, books.departed) == (4, 1, 1)
    assert pool_of(db).checkedin() == driver.live == 2


def run(coroutine):
    """Run in a new virtual loop, and return what it returns."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


def test_connection_of_another_loop_is_not_used():
    """A connection that belongs to a loop that is gone is replaced, not handed out, and its slot not lost."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0)

    async def number():
        async with db.connect() as connection:
            return (await connection.get_raw_connection()).dbapi_connection.number

    assert [run(number()) for _ in range(3)] == [1, 2, 3]
    assert driver.live == 1
    assert ended(db) == {"checked_in": 3}
    at_rest(db, idle=1)


def in_a_child(work):
    """Run a function in a forked child; return what it wrote."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, repr(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        written = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return written


def test_forked_child_starts_anew():
    """In a forked child nothing of the parent's is used, closed or counted, not even what was out while it forked."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0, pool_timeout=1)
    held = []

    async def take():
        held.append(await db.connect())
        async with db.connect():
            pass

    async def use():
        async with all_out(db, 2):
            snap = pool_of(db).snapshot()
            return snap.used, snap.idle, snap.requested, snap.opened

    def child():
        used = run(use())
        held.clear()  # the parent's connection, dropped in the child
        gc.collect()
        ledger_of(db).check()
        return used, driver.begun["close"], pool_of(db).checkedin()

    run(take())
    assert in_a_child(child) == "((2, 0, 2, 2), 0, 2)"
    assert (pool_of(db).checkedin(), pool_of(db).checkedout()) == (1, 1)
    held[0].sync_connection.close()
    at_rest(db, idle=2)


async def test_each_one_lingers_for_itself():
    """A connection that came back later than another is kept for its own time."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=2, guard=Guard(overflow_linger=1.0))
    early, late, last = [await db.connect() for _ in range(3)]
    await early.close()
    await asyncio.sleep(0.75)
    await late.close()
    await last.close()
    await asyncio.sleep(0.5)
    assert (elapsed(), driver.open_now) == (1.25, 3)
    await asyncio.sleep(1.0)
    assert driver.open_now == 1
    at_rest(db, idle=1)


async def test_figure_that_is_none_costs_no_slot():
    """A `_recycle` that somebody set on a finished pool and that cannot be compared fails checkouts, but loses nothing."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    async with db.connect():
        pass
    pool_of(db)._recycle = "3600"
    for _ in range(3):
        with contextlib.suppress(TypeError):
            async with db.connect():
                pass
    pool_of(db)._recycle = -1
    async with db.connect():
        assert pool_of(db).checkedout() == 1
    at_rest(db, idle=1)
