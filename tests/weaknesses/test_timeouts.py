"""`pool_timeout` bounds the whole checkout; a link that is dead holds nobody up."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy.exc
from doubles.driver import FakeDriver, Gate
from doubles.pools import at_rest, engine, pool_of
from doubles.virtual import elapsed
from sqlalchemy import text
from weaknesses.proxy import Proxy
from weaknesses.rivals import both, connected

from sqla_poolguard import CheckoutTimeout, Guard, GuardedPool

POLITE = 2.0
"""Seconds for which SQLAlchemy's asyncpg adapter waits for a graceful close."""


async def checkout(db):
    """Check a connection out and in again; tell what came of it, and after how many virtual seconds."""
    begun = elapsed()
    try:
        async with db.connect():
            pass
    except sqlalchemy.exc.TimeoutError:
        return "timeout", pytest.approx(elapsed() - begun)
    return "connected", pytest.approx(elapsed() - begun)


@both("G: pool_timeout does not cover the connect")
async def test_timeout_covers_the_connect(pool):
    """G: with a timeout of 100 ms and a connect that takes 500, the caller has its error after 100."""
    driver = FakeDriver(connect=Gate.SLOW, delay=0.5)
    db = engine(driver, pool=pool, pool_size=1, max_overflow=0, pool_timeout=0.1)
    assert await checkout(db) == ("timeout", 0.1)
    assert (driver.connecting, driver.open_now) == (0, 0)


@both("G2: pool_timeout does not cover the ping")
async def test_timeout_covers_the_ping(pool):
    """G2: with a timeout of 100 ms and a ping that takes 500, the caller has its error after 100, and the slot is free."""
    driver = FakeDriver(delay=0.5)
    db = engine(driver, pool=pool, pool_size=1, max_overflow=0, pool_timeout=0.1, pool_pre_ping=True)
    await checkout(db)
    driver.ping = Gate.SLOW
    assert await checkout(db) == ("timeout", 0.1)
    assert await checkout(db) == ("connected", 0.0)
    at_rest(db)


async def test_timeout_covers_the_idle_age_ping():
    """G2: the ping that `ping_after` asks for is bounded by `pool_timeout` too."""
    driver = FakeDriver(delay=0.5)
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=0.1, guard=Guard(ping_after=10))
    await checkout(db)
    driver.ping = Gate.NEVER
    await asyncio.sleep(11)
    assert await checkout(db) == ("timeout", 0.1)
    assert await checkout(db) == ("connected", 0.0)
    at_rest(db)


@pytest.mark.postgres
@both("G: on a stalled link the asyncpg adapter waits two seconds for a graceful close", timed=False)
async def test_invalidate_on_a_stalled_link_returns_soon(pool, postgres_url):
    """G: `invalidate()` on a link that carries nothing does not wait for the goodbye."""
    async with Proxy(postgres_url) as proxy, connected(proxy.url, pool, pool_size=1) as db:
        connection = await db.connect()
        proxy.stall()
        begun = time.monotonic()
        await connection.invalidate()
        took = time.monotonic() - begun
        await connection.close()
    assert took < POLITE * 0.6


@pytest.mark.postgres
@both("G: a statement that times out on a stalled link holds its caller for two seconds more", timed=False)
async def test_statement_timeout_on_a_stalled_link_returns_soon(pool, postgres_url):
    """G: who gives a statement on a dead link 200 ms is back well before two seconds, and its slot is free again."""
    async with Proxy(postgres_url) as proxy, connected(proxy.url, pool, pool_size=1, max_overflow=0) as db:
        async with db.connect():
            pass

        async def handler():
            async with db.connect() as connection:
                proxy.stall()
                async with asyncio.timeout(0.2):
                    await connection.execute(text("SELECT 1"))

        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await handler()
        took = time.monotonic() - begun
        assert pool_of(db).checkedout() == 0
    assert took < POLITE * 0.6


@pytest.mark.postgres
async def test_ping_on_a_stalled_link_returns_in_time(postgres_url):
    """G2: `pool_timeout` and a moment bound a checkout whose ping gets no answer, on a real link."""
    guard = Guard(ping_after=0.01)
    async with Proxy(postgres_url) as proxy, connected(proxy.url, GuardedPool, pool_timeout=0.2, guard=guard) as db:
        async with db.connect():
            pass
        await asyncio.sleep(0.1)
        proxy.stall()
        begun = time.monotonic()
        with pytest.raises(CheckoutTimeout):
            await db.connect()
        assert time.monotonic() - begun < POLITE * 0.6
