"""No loop, two loops, two threads, another thread's garbage collector, a fork: nobody sleeps beside a free connection."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import at_rest, engine, ledger_of, pool_of, queue_up, rejected
from doubles.virtual import VirtualLoop, elapsed, turns
from sqlalchemy.exc import MissingGreenlet

from sqla_poolguard import CheckoutTimeout, GuardedPool

LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"


def run(coroutine):
    """Run in a new virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


async def once(db):
    """Check out and in."""
    async with db.connect():
        pass


def test_idle_connection_can_be_had_without_a_loop():
    """As in the stock pool, `pool.connect()` in a plain thread gives an idle connection."""
    db = engine(pool_size=1, max_overflow=0)
    run(once(db))
    connection = pool_of(db).connect()
    assert ledger_of(db).granted == 2
    connection.close()
    at_rest(db, idle=1)


def test_exhausted_pool_without_a_loop_says_so():
    """Where there is no loop to wait in, an exhausted pool raises MissingGreenlet, as the stock pool does."""
    db = engine(pool_size=1, max_overflow=0)
    run(once(db))
    connection = pool_of(db).connect()
    with pytest.raises(MissingGreenlet):
        pool_of(db).connect()
    connection.close()
    at_rest(db, idle=1)


def test_connect_without_a_loop_says_so():
    """Opening a connection outside of a greenlet raises MissingGreenlet and takes no slot."""
    db = engine(pool_size=1, max_overflow=0)
    with pytest.raises(MissingGreenlet):
        pool_of(db).connect()
    assert rejected(db) == {"connect_failed": 1}
    at_rest(db, idle=0)


async def test_sync_use_inside_a_coroutine_says_so():
    """`pool.connect()` in a coroutine, outside of a greenlet, raises MissingGreenlet and leaves no waiter behind."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    with pytest.raises(MissingGreenlet):
        pool_of(db).connect()
    assert len(pool_of(db)._slots.waiters) == 0
    await held.close()
    at_rest(db, idle=1)


def test_two_loops_in_sequence():
    """One engine used under `asyncio.run` twice waits and times out correctly in the second loop too."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=2)

    async def wait():
        order = []
        held = await db.connect()
        tasks = await queue_up(db, order, "a", "b")
        with pytest.raises(CheckoutTimeout):
            await db.connect()
        assert elapsed() == 2.0
        await held.close()
        await asyncio.wait(tasks)

    for _ in range(3):
        run(wait())
        at_rest(db, idle=1)
    assert rejected(db) == {"timeout": 9}


def test_overdue_is_reported_in_the_second_loop(caplog):
    """The timer of a loop that is gone does not keep the next loop's leases from being watched."""
    db = engine(pool_size=1, max_overflow=0)

    async def hold():
        async with db.connect():
            await asyncio.sleep(6)

    run(hold())
    run(hold())
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4


@pytest.mark.parametrize("abandoned", [1, 500])
def test_waiters_of_a_closed_loop_are_passed_over(abandoned):
    """Waiters whose loop was closed over their heads, however many, neither get a connection nor cost one."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=10)
    dead = VirtualLoop()
    tasks = []

    async def abandon():
        connection = await db.connect()
        tasks.extend(asyncio.create_task(db.connect().start()) for _ in range(abandoned))
        await turns()
        return connection

    connection = dead.run_until_complete(abandon())
    dead.close()
    assert len(tasks) == abandoned

    async def carry_on():
        order = []
        waiting = await queue_up(db, order, "alive")
        connection.sync_connection.close()
        await asyncio.gather(*waiting)
        assert order == ["alive"]
        assert elapsed() == 0.0

    run(carry_on())
    ledger_of(db).check()
    assert pool_of(db).checkedin() == 1
    for task in tasks:
        task._log_destroy_pending = False


def test_waiters_of_a_closed_loop_do_not_keep_others_from_timing_out():
    """A timeout in one loop comes in time although abandoned waiters of a closed loop stand before it in the queue."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=2)
    dead = VirtualLoop()
    tasks = []

    async def abandon():
        connection = await db.connect()
        tasks.extend(asyncio.create_task(db.connect().start()) for _ in range(3))
        await turns()
        return connection

    connection = dead.run_until_complete(abandon())
    dead.close()

    async def time_out():
        with pytest.raises(CheckoutTimeout):
            await db.connect()
        assert elapsed() == 2.0

    run(time_out())
    connection.sync_connection.close()
    for task in tasks:
        task._log_destroy_pending = False


@pytest.mark.parametrize("driver_name", ["asyncpg", "aiosqlite"])
def test_two_loops_in_two_threads(driver_name):
    """Two threads, each with its loop, share two connections: all are served, no slot is lost, nothing stays open unknown."""
    driver = FakeDriver()
    db = engine(driver, pool=GuardedPool, pool_size=2, max_overflow=0, pool_timeout=20)
    db.sync_engine.dialect.driver = driver_name
    served, failed = [], []

    async def work():
        for _ in range(15):
            async with db.connect():
                await asyncio.sleep(0)
            served.append(1)

    async def crowd():
        await asyncio.gather(*(work() for _ in range(8)))

    def thread():
        try:
            asyncio.run(crowd())
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to
            failed.append(error)

    threads = [threading.Thread(target=thread) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert failed == []
    assert len(served) == 240
    at_rest(db, idle=2)
    assert driver.open_now == 2
    if driver_name == "aiosqlite":  # whose connections are at home in every loop, so that none is replaced
        assert driver.opened == driver.most == 2


def test_fork_does_not_touch_the_connections_of_the_parent():
    """After `dispose(close=False)` in a forked child it opens its own connections, and closes none of the parent's."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2)
    run(once(db))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(db.dispose(close=False))
            asyncio.run(once(db))
            os.write(writer, f"{driver.opened} {driver.begun['close']}".encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reader, 100) == b"2 0"
    os.close(reader)
    at_rest(db, idle=1)


async def test_real_gate_is_open_again():
    """The fake driver holds back who stands before a closed gate, and lets through who is told to go."""
    driver = FakeDriver(connect=Gate.NEVER)
    opening = asyncio.create_task(greenlet_spawn(driver.open))
    await turns()
    assert (driver.connecting, driver.opened) == (1, 0)
    assert driver.let("connect") == 1
    await opening
    assert (driver.connecting, driver.opened) == (0, 1)
