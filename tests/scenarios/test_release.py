"""`release()`: a session gives its connection back before a long await, or says why that would not be clean."""

from __future__ import annotations

import asyncio

import pytest
from scenarios.stage import ONE, Stage
from sqlalchemy import Column, Integer, MetaData, Table, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import registry

from sqla_poolguard import release, snapshot

pytestmark = pytest.mark.postgres


mapper = registry()


class Thing:
    """A mapped class."""


mapper.map_imperatively(Thing, Table("thing", MetaData(), Column("id", Integer, primary_key=True)))


async def test_release_sees_cursors_that_are_not_sqlalchemys(postgres_url):
    """An open cursor of the driver's, or of SQL's own, would die with the transaction."""
    async with Stage(postgres_url) as stage:
        async with AsyncSession(stage.db) as session:
            driver = (await (await session.connection()).get_raw_connection()).driver_connection
            await session.execute(ONE)
            cursor = await driver.cursor("SELECT generate_series(1, 10)")
            await cursor.fetch(1)
            with pytest.raises(InvalidRequestError, match="1 server-side cursors are open"):
                await release(session)
            assert len(await cursor.fetch(100)) == 9
            await release(session)
            assert snapshot(stage.db).used == 0
        async with AsyncSession(stage.db) as session:
            await session.execute(text("DECLARE mine CURSOR FOR SELECT generate_series(1, 10)"))
            with pytest.raises(InvalidRequestError, match="1 server-side cursors are open"):
                await release(session)
            await session.execute(text("CLOSE mine"))
            await release(session)


async def test_release_of_a_scope_without_a_session(postgres_url):
    """Where a scope has no session yet, none is made."""
    async with Stage(postgres_url) as stage:
        scoped = async_scoped_session(async_sessionmaker(stage.db), asyncio.current_task)
        await release(scoped)
        assert not scoped.registry.has()


async def test_release(postgres_url):
    """The transaction is committed, the connection is back, and the session goes on."""
    async with Stage(postgres_url, pool_size=1) as stage:
        async with stage.db.begin() as connection:
            await connection.execute(text("CREATE TEMP TABLE thing (id int PRIMARY KEY)"))
        async with AsyncSession(stage.db, expire_on_commit=False) as session:
            await release(session)  # nothing to give back
            session.add(thing := Thing())
            thing.id = 1
            await release(session)  # nothing to give back yet, and nothing lost
            assert thing in session.new
            await session.flush()
            await release(session)
            assert snapshot(stage.db).used == 0
            assert (await session.execute(text("SELECT id FROM thing"))).scalars().all() == [1]
            thing.id = 2
            with pytest.raises(InvalidRequestError, match="1 changed objects are not flushed"):
                await release(session)


async def test_release_refuses_what_is_not_clean(postgres_url):
    """A savepoint, a `begin()` block, an open cursor or somebody else's connection is in the way, and nothing is done."""
    async with Stage(postgres_url) as stage:
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            async with session.begin_nested():
                with pytest.raises(InvalidRequestError, match="a savepoint is open"):
                    await release(session)
        async with AsyncSession(stage.db) as session, session.begin():
            await session.execute(ONE)
            with pytest.raises(InvalidRequestError, match=r"inside a `begin\(\)` block"):
                await release(session)
            await session.execute(ONE)
        async with AsyncSession(stage.db) as session:
            rows = await session.stream(text("SELECT generate_series(1, 500)"))
            await rows.fetchone()
            with pytest.raises(InvalidRequestError, match="1 server-side cursors are open"):
                await release(session)
            assert len(await rows.fetchall()) == 499
            await release(session)
            assert snapshot(stage.db).used == 0
        async with AsyncSession(stage.db) as session:
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))
            with pytest.raises(InvalidRequestError, match="roll back first"):
                await release(session)
        async with AsyncSession(stage.other, binds={Thing: stage.db}) as session:
            rows = await session.stream(text("SELECT generate_series(1, 500)"), bind_arguments={"mapper": Thing})
            await rows.fetchone()
            with pytest.raises(InvalidRequestError, match="1 server-side cursors are open"):
                await release(session)
        async with stage.db.connect() as connection, AsyncSession(connection) as session:
            await session.execute(ONE)
            with pytest.raises(InvalidRequestError, match="not its own"):
                await release(session)


async def test_release_takes_sessions_only(postgres_url):
    """A scoped session will do; anything else is a TypeError."""
    async with Stage(postgres_url) as stage:
        scoped = async_scoped_session(async_sessionmaker(stage.db), asyncio.current_task)
        await scoped.execute(ONE)
        await release(scoped)
        assert snapshot(stage.db).used == 0
        await scoped.remove()
        with pytest.raises(TypeError, match=r"wants a sqlalchemy\.ext\.asyncio\.AsyncSession; got AsyncEngine"):
            await release(stage.db)
