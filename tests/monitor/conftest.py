"""Real servers for the monitor to ask."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref

import asyncpg
import pytest
from doubles import older
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import Guard, GuardedPool, _naming
from sqla_poolguard._cli.embedded import EmbeddedPostgres


@pytest.fixture(scope="session")
def newest():
    """A PostgreSQL out of the wheel, with a role that is no superuser."""
    with EmbeddedPostgres(max_connections=20) as server:
        asyncio.run(_make_role(server))
        yield server


@pytest.fixture(scope="session")
def postgres15():
    """A PostgreSQL 15, with the same role."""
    with EmbeddedPostgres(bindir=older.bindir(), max_connections=20) as server:
        asyncio.run(_make_role(server))
        yield server


@pytest.fixture(params=["newest", "postgres15"])
def server(request):
    """A PostgreSQL, new and old."""
    return request.getfixturevalue(request.param)


async def _make_role(server):
    connection = await asyncpg.connect(server.url("postgresql"))
    await connection.execute(
        "CREATE ROLE app LOGIN PASSWORD 'secret-of-app'; CREATE TABLE accounts (id int PRIMARY KEY, money int)"
    )
    await connection.execute("INSERT INTO accounts SELECT i, 0 FROM generate_series(1, 9) i; GRANT ALL ON accounts TO app")
    await connection.close()


def as_app(server, driver="postgresql+asyncpg"):
    """Give the URL of the role that is no superuser."""
    return f"{driver}://app:secret-of-app@{server.host}:{server.port}/postgres"


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Let every test name its pools as if it were alone in the process."""
    monkeypatch.setattr(_naming, "_taken", weakref.WeakValueDictionary())


@pytest.fixture
def connect():
    """Make engines on a URL, disposed of at the end."""
    engines = []

    def make(url, *, name="orders", **options):
        guard = Guard(name=name, hold_warning=60, await_warning=None)
        engines.append(create_async_engine(url, poolclass=GuardedPool, guard=guard, **options))
        return engines[-1]

    yield make
    assert all(engine.pool.checkedout() == 0 for engine in engines)


@contextlib.asynccontextmanager
async def judge_of(server):
    """Give a connection of the superuser, which looks from outside."""
    connection = await asyncpg.connect(server.url("postgresql"))
    try:
        yield connection
    finally:
        await connection.close()


async def until(true, seconds=20.0):
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for tells no event
            await asyncio.sleep(0.02)


@pytest.fixture
def alarms(caplog):
    """Give what the monitor has told so far, by kind."""
    caplog.set_level(logging.INFO, logger="sqla_poolguard")

    def told(kind):
        return [record for record in caplog.records if record.getMessage().startswith(f"{kind}: ")]

    return told
