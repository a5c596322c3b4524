"""`Guard(ping_after=...)` pings what was idle for long, and only that, in one round trip. Stock: `pool_pre_ping`, or nothing."""

from __future__ import annotations

import asyncio

import pytest
from doubles.driver import FakeDriver
from doubles.pools import engine
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import AsyncAdaptedQueuePool
from weaknesses.proxy import Proxy, without_tls
from weaknesses.rivals import backend, backend_of, both, connected

from sqla_poolguard import Guard, GuardedPool


@both("Ping: pool_pre_ping pings at every checkout", ping_after=10)
async def test_busy_connection_is_never_pinged(pool):
    """Ping: a connection that comes and goes every 5 s is not pinged; after 11 idle seconds it is, once."""
    driver = FakeDriver()
    db = engine(driver, pool=pool, pool_size=1, pool_pre_ping=pool is AsyncAdaptedQueuePool)

    async def cycle(times, pause):
        for _ in range(times):
            await asyncio.sleep(pause)
            async with db.connect():
                pass
        return driver.begun["ping"]

    assert await cycle(40, 5) == 0
    assert await cycle(1, 11) == 1
    assert await cycle(3, 5) == 1


async def test_only_those_idle_for_long_are_pinged():
    """Ping: of two connections, the one that was idle for 11 s is pinged, the one that has just come back is not."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, guard=Guard(ping_after=10))
    held = [await db.connect() for _ in range(2)]
    await held[0].close()
    await asyncio.sleep(11)
    await held[1].close()
    async with db.connect(), db.connect():
        assert driver.begun["ping"] == 1
    assert driver.opened == 2


@pytest.mark.postgres
@both("Ping: pool_pre_ping takes three round trips on asyncpg", timed=False, ping_after=0.01)
async def test_ping_is_one_round_trip(pool, postgres_url):
    """Ping: on asyncpg a checkout with a ping costs one round trip, counted on the wire; without, none."""
    options = {"pool_size": 1, "pool_pre_ping": pool is AsyncAdaptedQueuePool, **without_tls()}
    async with Proxy(postgres_url) as proxy, connected(proxy.url, pool, **options) as db:
        first = await backend_of(db)
        await asyncio.sleep(0.05)
        before = proxy.answers
        async with db.connect() as connection:
            assert proxy.answers - before == 1
            assert await backend(connection) == first


@pytest.mark.postgres
async def test_no_ping_is_no_round_trip(postgres_url):
    """Ping: checkouts of a connection that was not idle for long cost no round trip at all."""
    guard = Guard(ping_after=60)
    async with Proxy(postgres_url) as proxy, connected(proxy.url, GuardedPool, pool_size=1, guard=guard, **without_tls()) as db:
        async with db.connect():
            pass
        before = proxy.answers
        for _ in range(20):
            async with db.connect():
                pass
        assert proxy.answers == before


@pytest.mark.postgres
@both("Ping: a connection that died while idle is handed out", DBAPIError, timed=False, ping_after=0.01)
async def test_dead_connection_is_replaced(pool, postgres_url):
    """Ping: connections whose servers' ends were killed while idle are replaced before they are handed out."""
    async with connected(postgres_url, GuardedPool) as admin, connected(postgres_url, pool, pool_size=2) as db:
        async with db.connect() as one, db.connect() as two:
            killed = {await backend(one), await backend(two)}
        async with admin.connect() as connection:
            for pid in killed:
                await connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        await asyncio.sleep(0.1)
        assert {await backend_of(db) for _ in range(2)}.isdisjoint(killed)
