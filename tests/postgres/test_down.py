"""A real PostgreSQL that goes away and comes back, through both drivers: who is told what, and how soon it is used again."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import DatabaseUnavailable, Guard, GuardedPool, NoConnectionError, snapshot
from sqla_poolguard._cli.embedded import EmbeddedPostgres

pytestmark = pytest.mark.postgres

ONE = text("SELECT 1")


@pytest.fixture(scope="module")
def server():
    """Give a PostgreSQL of this module's own."""
    with EmbeddedPostgres(max_connections=10) as running:
        yield running


@pytest.fixture(params=["asyncpg", "psycopg"])
async def db(request, server):
    """Give an engine on it."""
    url = make_url(server.url(f"postgresql+{request.param}"))
    guard = Guard(fail_fast=True, name="orders")
    engine = create_async_engine(url, poolclass=GuardedPool, pool_size=3, max_overflow=2, guard=guard)
    yield engine
    await engine.dispose()


async def ask(db):
    """Run a query; give the error, if it is one, with the seconds after which it came."""
    begun = time.monotonic()
    try:
        async with db.connect() as connection:
            return (await connection.execute(ONE)).scalar()
    except Exception as error:  # noqa: BLE001 - it is looked at
        error.after = time.monotonic() - begun
        return error


async def eventually(db, seconds=5):
    """Ask until it is answered; give the seconds that this took."""
    begun = time.monotonic()
    while isinstance(error := await ask(db), Exception):
        assert time.monotonic() < begun + seconds, error
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


async def test_it_goes_and_comes_back(db, server):
    """In the outage requests are told within the time they may wait, those that come later at once; after it they are served."""
    assert await asyncio.gather(*(ask(db) for _ in range(5))) == [1] * 5
    try:
        await asyncio.to_thread(server.crash)
        first = await asyncio.gather(*(ask(db) for _ in range(20)))
        assert all(isinstance(answer, Exception) and answer.after < 2 for answer in first)
        later = [await ask(db) for _ in range(20)]
        assert {type(answer) for answer in later} == {DatabaseUnavailable}
        assert sorted(answer.after for answer in later)[10] < 0.05
        assert isinstance(later[-1].orig, Exception)
        assert snapshot(db).downtime.fails < 20
    finally:
        await asyncio.to_thread(server.restart)
    await eventually(db)
    assert await asyncio.gather(*(ask(db) for _ in range(20))) == [1] * 20
    assert snapshot(db).downtime is None
    db.sync_engine.pool._ledger.check()


async def test_a_restart_is_ridden_out(db, server):
    """Requests that wait while the server starts are served; the dead connections of before cost no request when they are pinged."""
    url = db.url
    pinged = create_async_engine(
        url, poolclass=GuardedPool, pool_size=3, max_overflow=2, guard=Guard(ping_after=0.001, max_wait=5, fail_fast=True)
    )
    assert await asyncio.gather(*(ask(pinged) for _ in range(3))) == [1] * 3
    await asyncio.to_thread(server.crash)
    asking = [asyncio.create_task(ask(pinged)) for _ in range(10)]
    await asyncio.sleep(0.05)
    await asyncio.to_thread(server.restart)
    answers = await asyncio.gather(*asking)
    assert answers == [1] * 10, answers
    await pinged.dispose()


async def test_a_full_server_leaves_those_that_live(db, server):
    """With "too many clients" the connections that one has go on serving, and nobody is refused for the server's sake."""
    db = create_async_engine(db.url, poolclass=GuardedPool, pool_size=3, max_overflow=2)
    async with db.connect() as first, db.connect() as second:
        await first.execute(ONE)
        await second.execute(ONE)
        others = await fill(server)
    answers = await asyncio.gather(*(ask(db) for _ in range(50)))
    assert answers == [1] * 50, answers
    assert snapshot(db).opened == 2
    for other in others:
        await other.close()
    await db.dispose()


async def fill(server):
    """Take every connection that the server has left."""
    taken = []
    while True:
        try:
            taken.append(await asyncpg.connect(server.url("postgresql")))
        except asyncpg.TooManyConnectionsError:
            return taken


async def test_a_wrong_password_is_told_as_it_is(server):
    """At once, to everybody, by the driver's own error, and the server is asked seldom."""
    url = make_url(server.url()).set(password="wrong")
    engine = create_async_engine(url, poolclass=GuardedPool, guard=Guard(name="orders"))
    answers = [await ask(engine) for _ in range(50)]
    own = [answer.orig.__cause__ if isinstance(answer, DBAPIError) else answer for answer in answers]  # SQLAlchemy 2.1 wraps it
    assert {type(error) for error in own} == {asyncpg.InvalidPasswordError}
    assert not any(isinstance(answer, NoConnectionError) for answer in answers)
    assert snapshot(engine).downtime.fails < 5
    await engine.dispose()
