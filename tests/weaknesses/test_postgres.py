"""Capacity and fairness on a real PostgreSQL, in counts: how many connections are in use, how many are served before one."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest
from doubles.pools import pool_of
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from weaknesses.rivals import both, connected

pytestmark = pytest.mark.postgres

SLEEP = text("SELECT pg_sleep(0.02)")
ONE = text("SELECT 1")


def spin(seconds):
    """Keep the loop busy, in the time this thread gets."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def in_use(db, jobs, *, cpu=0.0, hiccup=0.0):
    """Run so many jobs of 20 ms; tell how many connections were out, on average, in the second half, while others waited."""
    figures = []

    async def work():
        async with AsyncSession(db) as session:
            await session.connection()
            figures.append(pool_of(db).checkedout())
            if len(figures) == 100 and hiccup:  # all connections are open and working by now, however slow the machine
                asyncio.get_running_loop().call_later(0.01, time.sleep, hiccup)
            await session.execute(SLEEP)
            spin(cpu)

    await asyncio.gather(*(work() for _ in range(jobs)))
    return statistics.mean(figures[jobs // 2 : -20])


@both("A3: after one hiccup of the loop most connections stay closed", timed=False)
async def test_hiccup_costs_no_capacity(pool, postgres_url):
    """A3: after the loop has stood still for 50 ms once, 600 jobs of 20 ms still use all 15 connections."""
    async with connected(postgres_url, pool, pool_size=5, max_overflow=10) as db:
        assert await in_use(db, 600, hiccup=0.05) > 14


@both("A4: a little work in every job costs more than half of the connections", timed=False)
async def test_work_in_the_loop_costs_no_capacity(pool, postgres_url):
    """A4: 400 jobs of 20 ms, with half a millisecond of CPU after each, use all 15 connections to the end."""
    async with connected(postgres_url, pool, pool_size=5, max_overflow=10) as db:
        assert await in_use(db, 400, cpu=0.0005) > 14


@both("C2: who commits and goes on is served before those who wait", timed=False)
async def test_commit_loops_starve_nobody(pool, postgres_url):
    """C2: of 50 sessions that execute and commit in a loop on 10 connections, none waits while 150 others are served."""
    served, overtaken = 0, []
    async with connected(postgres_url, pool, pool_size=10, max_overflow=0) as db:

        async def work():
            nonlocal served
            async with AsyncSession(db) as session:
                for _ in range(20):
                    asked = served
                    await session.connection()
                    overtaken.append(served - asked)
                    served += 1
                    await session.execute(ONE)
                    await session.commit()

        await asyncio.gather(*(work() for _ in range(50)))
    assert max(overtaken) < 150
