"""A smaller storm on a real PostgreSQL, whose own count of connections is the judge."""

from __future__ import annotations

import asyncio
import gc
import logging
import random

import asyncpg
import pytest
from doubles.pools import all_out, at_rest, ledger_of, pool_of
from doubles.storm import Storm, seed
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import Guard, GuardedPool

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"),
]

COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'storm'"


@pytest.fixture(autouse=True)
def quiet():
    """Keep the log of hundreds of failures out of the report."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def test_storm_on_postgres(postgres_url):
    """Laws and limit hold at every step; afterwards every slot is usable and PostgreSQL has no connection that we do not know."""
    rnd = random.Random(seed())
    db = create_async_engine(
        postgres_url,
        poolclass=GuardedPool,
        pool_size=3,
        max_overflow=3,
        pool_timeout=0.4,
        connect_args={"server_settings": {"application_name": "storm"}},
        guard=Guard(hold_warning=0.01),
    )
    ledger = ledger_of(db)

    def check():
        ledger.check()
        assert pool_of(db).checkedout() + pool_of(db).checkedin() <= 6

    detached = []

    class PostgresStorm(Storm):
        async def _end(self, connection, ending):
            await connection.execute(text("SELECT 1"))
            if ending == "detach":
                detached.append((await connection.get_raw_connection()).driver_connection)
            await super()._end(connection, ending)

    storm = PostgresStorm(db, rnd, check)
    for _ in range(10):  # a slow machine serves few of a burst before their deadline
        await storm.run(1_200)
        if storm.seen["granted"] > 50 and storm.seen["leaked"]:
            break
    assert ledger.granted == storm.seen["granted"] > 50
    assert ledger.ended["leaked"] > 0
    at_rest(db)
    async with all_out(db, 6) as out:
        for connection in out:
            assert (await connection.execute(text("SELECT 1"))).scalar() == 1
        judge = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
        try:
            for _ in range(200):  # a backend takes a moment to go after its client has gone
                if await judge.fetchval(COUNT) == 6:
                    break
                await judge.execute("SELECT pg_sleep(0.01)")
            assert await judge.fetchval(COUNT) == 6
        finally:
            await judge.close()
    at_rest(db, idle=3)
    assert all(connection.is_closed() for connection in detached)
    await db.dispose()
    gc.collect()
    await asyncio.sleep(0)
    at_rest(db, idle=0)


async def test_storm_with_resizes_on_postgres(postgres_url):
    """PostgreSQL never sees more connections than may be, or than there were when that fell; at the end it sees the new size."""
    rnd = random.Random(seed())
    db = create_async_engine(
        postgres_url,
        poolclass=GuardedPool,
        pool_size=2,
        max_overflow=2,
        pool_timeout=2,
        connect_args={"server_settings": {"application_name": "resize"}},
    )
    pool, ledger = pool_of(db), ledger_of(db)
    count = COUNT.replace("storm", "resize")
    judge = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))

    async def seen(wanted):
        for _ in range(500):  # a backend takes a moment to go after its client has gone
            if (found := await judge.fetchval(count)) == wanted:
                return found
            await judge.execute("SELECT pg_sleep(0.01)")
        return found

    async def work():
        async with db.connect() as connection:
            ledger.check()
            await connection.execute(text("SELECT pg_sleep(0.002)"))
        ledger.check()

    try:
        most = 0
        limits = [rnd.randint(1, 8) for _ in range(25)]
        for limit, size in [*((limit, rnd.randint(1, limit)) for limit in limits), (3, 3)]:
            if rnd.random() < 0.5:
                pool.resize(size, limit - size)
            else:
                await asyncio.to_thread(pool.resize, size, limit - size)
            ledger.check()
            await asyncio.gather(*(work() for _ in range(40)))
            assert pool.snapshot().limit == limit
            assert pool.checkedin() <= size
            most = max(most, limit)
        pool.resize(2, 1)
        assert await seen(2) == await judge.fetchval(count) == pool.checkedin() == 2
        async with all_out(db, 3):
            assert await seen(3) == 3
            pool.resize(1, 0)
            assert await seen(3) == 3
        assert await seen(1) == 1
        assert most > 3
    finally:
        await judge.close()
        await db.dispose()
    at_rest(db, idle=0)
