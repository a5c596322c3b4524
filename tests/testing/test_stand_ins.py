"""The clock that a test sets, the driver with gates, and the pool that is full for a while."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest
import sqlalchemy.exc
from sqlalchemy import Integer, String, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, mapped_column

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, DatabaseUnavailable, Guard, snapshot
from sqla_poolguard.testing import FakeClock, FakeDriver, Gate, exhaust

SELECT = text("select 1")


async def use(engine):
    """Check out, and execute."""
    async with engine.connect() as connection:
        await connection.execute(SELECT)


def test_clock_jumps():
    """A timeout of 30 s takes 30 s of the clock, and no time."""
    clock, driver = FakeClock(), FakeDriver()
    engine = driver.engine(poolclass=clock.poolclass, pool_timeout=30)

    async def main():
        with exhaust(engine):
            await use(engine)

    with pytest.raises(CheckoutTimeout):
        clock.run(main())
    assert clock.elapsed == 30.0
    assert driver.opened == 0


def test_clock_is_advanced():
    """It goes when it is told to, and shows what it was set to; timers that are due fire."""
    clock = FakeClock(5)
    assert (clock.time(), clock.elapsed, repr(clock)) == (5.0, 0.0, "<FakeClock 5 s>")
    clock.advance(2.5)
    assert (clock.time(), clock.elapsed) == (7.5, 2.5)

    async def main():
        fired = asyncio.Event()
        asyncio.get_running_loop().call_later(10, fired.set)
        clock.advance(10)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fired.is_set()

    clock.run(main())
    assert clock.time() == 17.5


@pytest.mark.parametrize(
    "call",
    [
        lambda: FakeClock("1"),
        lambda: FakeClock(float("inf")),
        lambda: FakeClock().advance(-1),
        lambda: FakeClock().advance("1"),
        lambda: FakeClock().advance(True),
    ],
)
def test_clock_that_is_set_wrongly(call):
    """It says what is allowed."""
    with pytest.raises(ValueError, match="is not allowed; allowed: "):
        call()


@pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("step", ["connect", "ping", "execute", "rollback", "close"])
def test_gates(step):
    """Each step can go well, fail, take its time, or wait until it is let through; it is counted."""
    clock = FakeClock()
    driver = FakeDriver(delay=2)
    engine = driver.engine(poolclass=clock.poolclass, pool_pre_ping=True, pool_timeout=60, guard=Guard(hold_warning=None))

    async def through():
        await use(engine)
        await engine.dispose()
        await use(engine)  # a new connection
        await use(engine)  # which is pinged
        if step == "close":
            await engine.dispose()

    clock.run(through())
    counted = driver.begun[step]
    assert counted > 0
    setattr(driver, step, "slow")
    before = clock.elapsed
    clock.run(through())
    assert clock.elapsed - before == pytest.approx(2 * (driver.begun[step] - counted))
    setattr(driver, step, Gate.NEVER)

    async def held():
        task = asyncio.create_task(through())
        while not task.done():
            await asyncio.sleep(0.001)
            driver.let(step)
        await task

    if step != "close":  # one that does not end is cut off
        clock.run(held())
    setattr(driver, step, "error")
    if step in {"connect", "execute", "rollback"}:
        with pytest.raises((OSError, sqlalchemy.exc.DBAPIError)):
            clock.run(through())
    else:
        clock.run(through())
    gc.collect()  # SQLAlchemy 2.0 drops a connection whose rollback has failed


@pytest.mark.parametrize("gate", ["maybe", None, 1])
def test_a_gate_that_is_none(gate):
    """It says which there are, be it given at once or later."""
    with pytest.raises(ValueError, match=r"FakeDriver.connect=.* is not allowed; allowed: ok, error, slow, never"):
        FakeDriver(connect=gate)
    driver = FakeDriver()
    with pytest.raises(ValueError, match=r"FakeDriver.execute=.* is not allowed; allowed: ok, error, slow, never"):
        driver.execute = gate


@pytest.mark.parametrize("delay", [-1, "1", True, float("nan"), float("inf")])
def test_a_delay_that_is_none(delay):
    """Likewise."""
    with pytest.raises(ValueError, match=r"FakeDriver.delay=.* is not allowed; allowed: a number of seconds, 0 or more"):
        FakeDriver(delay=delay)


def test_a_gate_that_is_not_there():
    """A mistyped gate is no gate that stays open."""
    driver = FakeDriver()
    message = (
        "FakeDriver has no 'exceute' to set to 'never'; allowed: the gates connect, ping, execute, rollback, close, and delay"
    )
    with pytest.raises(AttributeError, match=message):
        driver.exceute = "never"
    driver.execute, driver.delay = "never", 0.5


class Base(DeclarativeBase):
    """The tables of these tests."""


class Order(Base):
    """One with an ordinary and a computed column."""

    __tablename__ = "orders"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String)


@pytest.mark.parametrize("pieces", [None, 1, 100])
async def test_streams(pieces):
    """Statements that are streamed find nothing either, by connection or session, as rows, objects or one value."""
    driver = FakeDriver()
    engine = driver.engine().execution_options(**({} if pieces is None else {"yield_per": pieces}))
    async with engine.connect() as connection:
        assert [row async for row in await connection.stream(SELECT)] == []
        assert await (await connection.stream(SELECT)).all() == []
        assert await (await connection.stream(SELECT)).first() is None
        assert await (await connection.stream(SELECT)).fetchmany(2) == []
        assert [part async for part in (await connection.stream(SELECT)).partitions(2)] == []
        assert [row async for row in await connection.stream_scalars(SELECT)] == []
        async with connection.stream(SELECT) as result:
            assert list(result.keys())
    async with AsyncSession(engine) as session:
        assert [order async for order in await session.stream_scalars(select(Order))] == []
        assert [row async for row in await session.stream(select(Order.id, func.lower(Order.name).label("low")))] == []
        result = await session.stream(select(Order.id, func.lower(Order.name).label("low")))
        assert list(result.keys()) == ["id", "low"]
        await result.close()
    assert driver.begun["execute"] == 10
    assert snapshot(engine).used == 0


async def test_gates_of_streams():
    """What is streamed stands before the same gate."""
    driver = FakeDriver(execute="error")
    engine = driver.engine()
    async with engine.connect() as connection:
        with pytest.raises(sqlalchemy.exc.DBAPIError, match="connection is closed"):
            await connection.stream(SELECT)
    driver.execute = "never"
    async with engine.connect() as connection:
        task = asyncio.create_task(connection.stream(SELECT).__aenter__())
        await asyncio.sleep(0)
        assert driver.begun["execute"] == 2
        assert driver.let("execute") == 1
        assert await (await task).all() == []


def test_down_and_up():
    """The way of a database that is down, as an application meets it."""
    clock, driver = FakeClock(), FakeDriver(connect="error")
    engine = driver.engine(poolclass=clock.poolclass, pool_timeout=5)

    async def main():
        with pytest.raises(DatabaseUnavailable):
            await use(engine)
        driver.connect = "ok"
        await asyncio.sleep(60)
        await use(engine)

    clock.run(main())


async def test_exhausted():
    """A pool that is full has all out; who asks is refused as usual, and everything is as before afterwards."""
    driver = FakeDriver()
    engine = driver.engine(pool_size=2, max_overflow=1, pool_timeout=0.05, guard=Guard(max_waiting=0))
    await use(engine)
    async with engine.connect():
        with exhaust(engine):
            seen = snapshot(engine)
            assert (seen.used, seen.idle, seen.connecting) == (3, 0, 0)
            with pytest.raises(CheckoutRejected) as refused:
                await use(engine)
            assert refused.value.status_code == 503
            assert "test_stand_ins.py" in str(refused.value)
    assert (snapshot(engine).used, snapshot(engine).idle) == (0, 1)
    await use(engine)
    assert driver.opened == 1
    engine.pool._ledger.check()


async def test_who_waits_is_served_at_the_end_of_the_block():
    """The first that waits gets the idle connection, the others new ones; what comes back during the block is given out."""
    driver = FakeDriver()
    engine = driver.engine(pool_size=2, max_overflow=0, pool_timeout=5)
    held = await engine.connect()
    with exhaust(engine.sync_engine):
        first = asyncio.create_task(use(engine))
        await asyncio.sleep(0.01)
        assert not first.done()
        await held.close()
        await first
        with exhaust(engine.pool):  # what has come back
            waiting = [asyncio.create_task(use(engine)) for _ in range(4)]
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    engine.pool._ledger.check()
    assert snapshot(engine).used == 0


async def test_a_pool_that_was_disposed_of_meanwhile():
    """What was taken is closed, as it would have been; the new pool is another."""
    driver = FakeDriver()
    engine = driver.engine(pool_timeout=0.01)
    await use(engine)
    with exhaust(engine):
        await engine.dispose()
        await use(engine)
    await asyncio.sleep(0)
    assert driver.open_now == 1


def test_what_cannot_be_exhausted():
    """A pool without a limit, or of another kind, is refused."""
    with pytest.raises(ValueError, match="has no limit; allowed: pool_size above 0"), exhaust(FakeDriver().engine(pool_size=0)):
        raise AssertionError
    stock = create_async_engine("sqlite+aiosqlite:///a.db")
    with pytest.raises(TypeError, match="got AsyncEngine with AsyncAdaptedQueuePool"), exhaust(stock):
        raise AssertionError


def test_no_driver_is_needed():
    """The fake driver stands for asyncpg without importing it."""
    program = """
import asyncio, sys
sys.modules["asyncpg"] = None
from sqlalchemy import text
from sqla_poolguard.testing import FakeDriver

async def main():
    async with FakeDriver().engine().connect() as connection:
        await connection.execute(text("select 1"))

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
