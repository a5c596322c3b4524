"""Who gets a connection that comes back: all connections stay in use while anybody waits, and nobody is overtaken."""

from __future__ import annotations

import asyncio
from collections import Counter

import sqlalchemy.exc
from doubles.driver import FakeDriver, Gate
from doubles.pools import engine, queue_up
from doubles.virtual import elapsed
from weaknesses.rivals import both


async def burst(db, jobs, hold):
    """Let so many jobs, each of which holds a connection for `hold(job)` seconds, ask at the same moment."""

    async def work(job):
        async with db.connect():
            await asyncio.sleep(hold(job))

    await asyncio.gather(*(work(job) for job in range(jobs)))


@both("A: connections that come back in one turn of the loop are closed, although callers wait")
async def test_burst_keeps_its_capacity(pool):
    """A: 100 jobs of 10 ms on 1+9 connections take 100 ms, not the second they take on one connection."""
    db = engine(FakeDriver(connect=Gate.SLOW, delay=0.001), pool=pool, pool_size=1, max_overflow=9)
    await burst(db, 100, lambda _: 0.01)
    assert elapsed() < 0.2


@both("A2: freed slots are not offered to those who wait")
async def test_large_burst_keeps_its_capacity(pool):
    """A2: 1000 jobs of 2 ms on 5+10 connections, 5 ms to connect, take 140 ms, and nothing is opened twice."""
    driver = FakeDriver(connect=Gate.SLOW, delay=0.005)
    await burst(engine(driver, pool=pool, pool_size=5, max_overflow=10), 1000, lambda _: 0.002)
    assert elapsed() < 0.2
    assert driver.opened == 15


@both("A: after one hiccup of the loop the pool stays at pool_size")
async def test_hiccup_costs_no_capacity(pool):
    """A: jobs that come back one by one keep all 5+10 connections, also after the loop has stood still for 50 ms once."""
    db, loop = engine(FakeDriver(), pool=pool, pool_size=5, max_overflow=10), asyncio.get_running_loop()

    def hiccup():
        loop._now += 0.05

    loop.call_later(0.1, hiccup)
    await burst(db, 600, lambda job: 0.02 + job % 97 / 100_000)
    assert elapsed() < 1.2


@both("B: newcomers take freed slots before those who wait")
async def test_newcomers_do_not_overtake(pool):
    """B: 60 jobs at once and 30 that come one by one are served in the order in which they came."""
    db = engine(FakeDriver(connect=Gate.SLOW, delay=0.001), pool=pool, pool_size=2, max_overflow=4)
    order, tasks = [], []
    for job in range(90):
        if job >= 60:
            await asyncio.sleep(0.0013)
        tasks += await queue_up(db, order, job, hold=0.01)
    await asyncio.gather(*tasks)
    assert order[6:] == list(range(6, 90))  # the first six only connected, all at the same time


@both("C: who gives back and asks again at once is served before all who wait")
async def test_barging_starves_nobody(pool):
    """C: of 100 loops on 10 connections, each holding for 5 ms, all get the same share in a second."""
    db, served = engine(pool=pool, pool_size=10, max_overflow=0), Counter()

    async def work(name):
        while elapsed() < 1:
            connection = await db.connect()
            served[name] += 1
            await asyncio.sleep(0.005)
            await connection.close()

    await asyncio.gather(*(work(name) for name in range(100)))
    assert min(served.values()) > 15, f"{sum(count < 2 for count in served.values())} of 100 starved"


@both("C3: a connection that is free every 10 ms cannot be had in 200 ms", sqlalchemy.exc.TimeoutError)
async def test_one_hog_starves_nobody(pool):
    """C3: beside one loop that gives back every 10 ms and asks again, a caller is served at the next return."""
    db = engine(pool=pool, pool_size=1, max_overflow=0, pool_timeout=0.2)

    async def hog():
        while True:
            connection = await db.connect()
            try:
                await asyncio.sleep(0.01)
            finally:
                await connection.close()

    task = asyncio.create_task(hog())
    try:
        await asyncio.sleep(0.005)
        async with db.connect():
            assert elapsed() < 0.02
    finally:
        task.cancel()
        await asyncio.wait([task])
