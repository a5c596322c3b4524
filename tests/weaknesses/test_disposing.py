"""`dispose()` closes everything in the end, and overflow connections are not opened and closed all the time."""

from __future__ import annotations

import asyncio
import random

import sqlalchemy.exc
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import engine, pool_of
from doubles.virtual import elapsed
from weaknesses.rivals import both


@both("F: what comes back to a disposed pool stays open until it is collected")
async def test_dispose_leaves_nothing_open(pool):
    """F: connections that were out while the engine was disposed of are closed on the server when they come back."""
    driver = FakeDriver()
    db = engine(driver, pool=pool, pool_size=5, max_overflow=0)
    out = [await db.connect() for _ in range(5)]
    old = pool_of(db)
    await db.dispose()
    for connection in out:
        await connection.close()
    assert driver.open_now == 0
    assert (old.checkedin(), old.checkedout()) == (0, 0)


@both("F2: pool.dispose() forgets what is out, and the limit is exceeded")
async def test_plain_pool_dispose_keeps_the_limit(pool):
    """F2: after `pool.dispose()` with 5 of 5 connections out, no sixth is opened, and the figures stay right."""
    driver = FakeDriver()
    db = engine(driver, pool=pool, pool_size=5, max_overflow=0, pool_timeout=0.05)
    out = [await db.connect() for _ in range(5)]
    await greenlet_spawn(pool_of(db).dispose)
    try:
        while len(out) < 10:
            out.append(await db.connect())
    except sqlalchemy.exc.TimeoutError:
        pass
    for connection in out:
        await connection.close()
    assert driver.most == 5
    assert (pool_of(db).checkedout(), pool_of(db).checkedin(), driver.open_now) == (0, 5, 5)


@both("I: connections above pool_size are closed at every lull, and opened again", overflow_linger=1.0)
async def test_overflow_lingers(pool):
    """I: under a load that needs 6 connections of 5+10 on average hardly any is opened twice; a second after it, 5 are left."""
    driver, rnd, tasks = FakeDriver(connect=Gate.SLOW, delay=0.005), random.Random(3), []
    db = engine(driver, pool=pool, pool_size=5, max_overflow=10)

    async def work():
        async with db.connect():
            await asyncio.sleep(0.02)

    while elapsed() < 4:
        tasks.append(asyncio.create_task(work()))
        await asyncio.sleep(rnd.expovariate(300))
    await asyncio.gather(*tasks)
    assert driver.opened <= 40, f"{driver.opened} connects for {len(tasks)} checkouts"
    await asyncio.sleep(2.1)
    assert driver.open_now == 5
