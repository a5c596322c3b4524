"""The start-up line on real servers: said once, some time after the first connect, over a connection that nobody misses."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import pytest
from asyncpg import connect_utils
from doubles.bouncer import PgBouncer
from doubles.pools import at_rest
from monitor.conftest import as_app, judge_of, until
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import Guard, GuardedPool, _startup, snapshot

pytestmark = pytest.mark.postgres

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Let it be said soon, and by every test anew."""
    monkeypatch.setattr(_startup, "_FIRST", 0.05)
    monkeypatch.setattr(_startup, "_QUIET", 0.02)
    monkeypatch.setattr(_startup, "_SLOWEST", 0.1)
    monkeypatch.setattr(_startup, "_is_first", lambda _: True)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


@pytest.fixture
def lines(caplog):
    """Give the lines said so far."""
    caplog.set_level("INFO", logger="sqla_poolguard")
    return lambda: [record.getMessage() for record in caplog.records if " x " in record.getMessage()]


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+psycopg_async"])
async def test_said_once_with_the_server_s_figures(server, lines, monkeypatch, driver):
    """The sum of all processes against what the role may have, on PostgreSQL new and old; no connection more than the pool's own."""
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    db = create_async_engine(as_app(server, driver), poolclass=GuardedPool, pool_size=3, max_overflow=1, guard=Guard(name="o1"))
    async with judge_of(server) as judge:
        async with asyncio.timeout(20):
            while await judge.fetchval(SESSIONS):  # noqa: ASYNC110 - those of the test before, which go in a moment
                await asyncio.sleep(0.02)
        async with db.connect() as connection:
            await connection.execute(text("SELECT 1"))
        await until(lines)
        assert await judge.fetchval(SESSIONS) == 1
        states = await judge.fetch("SELECT state FROM pg_stat_activity WHERE usename = 'app'")
        assert [row["state"] for row in states] == ["idle"], "it left no transaction open"
    await db.dispose()
    async with db.connect():
        pass
    await asyncio.sleep(0.3)
    assert lines() == ["pool 'o1': 3+1 x 4 processes (WEB_CONCURRENCY) = 16 of 17 usable slots"]
    at_rest(db)
    await db.dispose()


async def test_a_warning_where_it_does_not_fit(newest, caplog):
    """More than there is room for is a warning; the option counts more than the variable."""
    guard = Guard(name="o2", processes=5)
    db = create_async_engine(as_app(newest), poolclass=GuardedPool, pool_size=3, max_overflow=1, guard=guard)
    async with db.connect():
        pass
    await until(lambda: caplog.records)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "= 20, but there are only 17 usable slots" in caplog.text
    await db.dispose()


async def test_nobody_s_connection_is_used_for_it(newest, lines):
    """While all are out it waits; whoever asks meanwhile is served by the other that is idle."""
    db = create_async_engine(as_app(newest), poolclass=GuardedPool, pool_size=2, max_overflow=0, guard=Guard(name="o3"))
    statements = []
    event.listen(db.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    async with db.connect() as first:
        await first.execute(text("SELECT 1"))
        async with db.connect():
            await asyncio.sleep(0.4)
            assert lines() == []
    await until(lines)
    assert statements == ["SELECT 1"]
    assert db.pool.snapshot().granted == 2
    await db.dispose()


async def test_a_pool_of_one_is_not_asked(newest, lines):
    """Whoever came meanwhile would find nothing, and no room to connect."""
    db = create_async_engine(as_app(newest), poolclass=GuardedPool, pool_size=1, max_overflow=0, guard=Guard(name="o8"))
    async with db.connect():
        pass
    await asyncio.sleep(1)
    assert lines() == []
    await db.dispose()


async def test_a_look_to_come_keeps_no_name(newest, monkeypatch):
    """An engine that is disposed of and dropped before the line was said gives its name back at once, and its gauges end."""
    monkeypatch.setattr(_startup, "_FIRST", 60)
    url, guard = as_app(newest), Guard(name="o9")
    db = create_async_engine(url, poolclass=GuardedPool, guard=guard)
    async with db.connect():
        pass
    assert db.pool._watch.reporter in _startup._begun
    books = weakref.ref(db.pool._ledger)
    await db.dispose()
    del db
    gc.collect()
    assert books() is None
    again = create_async_engine(url, poolclass=GuardedPool, guard=guard)
    assert again.pool.name == "o9"
    await again.dispose()


async def test_behind_a_pooler_it_says_so(newest, lines):
    """The server's limits are not the pooler's."""
    with PgBouncer("1.24", newest) as bouncer:
        db = create_async_engine(bouncer.url(), poolclass=GuardedPool, guard=Guard(name="o4", processes=2))
        async with db.connect():
            pass
        await until(lines)
        assert lines() == ["pool 'o4': 5+10 x 2 processes (Guard) = 30 connections to a pooler, whose limits are its own"]
        await db.dispose()


async def test_a_question_that_is_cut_off_costs_nothing(newest, lines, monkeypatch):
    """The connection is closed, its slot is free, and it is asked again later, without a word to anybody."""
    statement = _startup._SQL
    monkeypatch.setattr(_startup, "_SQL", "SELECT pg_sleep(600)")
    monkeypatch.setattr(_startup, "_ANSWER", 0.2)
    db = create_async_engine(as_app(newest), poolclass=GuardedPool, pool_size=1, max_overflow=1, guard=Guard(name="o5"))
    async with db.connect():
        pass
    await until(lambda: db.pool.checkedin() == 0)
    await until(lambda: db.pool.checkedout() == 0)
    assert lines() == []
    async with judge_of(newest) as judge:
        await judge.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    monkeypatch.setattr(_startup, "_SQL", statement)
    async with db.connect():
        pass
    await until(lines)
    at_rest(db, idle=1)
    await db.dispose()


@pytest.mark.parametrize("answer", [600, 0.01], ids=["asking", "giving_up"])
@pytest.mark.parametrize("disposed", [True, False])
def test_the_loop_ends_while_it_asks(disposed, answer, newest, monkeypatch):
    """The connection is closed before the loop is, also where the driver is asking the server to leave off, and gets no answer."""
    gives_up = threading.Event()

    async def stalled(**_):
        gives_up.set()
        await asyncio.sleep(600)

    monkeypatch.setattr(_startup, "_SQL", "SELECT pg_sleep(600)")
    monkeypatch.setattr(_startup, "_ANSWER", answer)
    monkeypatch.setattr(connect_utils, "_cancel", stalled)
    db = create_async_engine(
        as_app(newest), poolclass=GuardedPool, pool_size=1, max_overflow=1, guard=Guard(name=f"o9-{disposed}-{answer}")
    )
    drivers = []

    async def job():
        async with db.connect() as connection:
            drivers.append((await connection.get_raw_connection()).driver_connection)
        await until(lambda: db.pool.checkedin() == 0 and (answer > 1 or gives_up.is_set() or drivers[0].is_closed()))
        if disposed:
            await db.dispose()

    asyncio.run(job())
    assert drivers.pop().is_closed()
    assert snapshot(db).idle == snapshot(db).used == 0


async def test_cancelled_before_it_begins_it_loses_no_slot(newest, monkeypatch):
    """The loop may end at any moment."""
    db = create_async_engine(as_app(newest), poolclass=GuardedPool, pool_size=1, max_overflow=0, guard=Guard(name="o6"))
    monkeypatch.setattr(_startup, "_FIRST", 600)
    async with db.connect():
        pass
    task = asyncio.create_task(_startup._say(db.pool, asyncio.get_running_loop(), 600))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert db.pool.checkedin() == 0
    task.cancel()
    await asyncio.wait([task])
    at_rest(db, idle=0)
    await db.dispose()


def test_the_next_loop_says_what_the_first_had_no_time_for(newest, lines, monkeypatch):
    """With a loop for each job it is said in the first that lives long enough."""
    db = create_async_engine(as_app(newest), poolclass=GuardedPool, guard=Guard(name="o7"))

    async def job(seconds):
        async with db.connect():
            pass
        await asyncio.sleep(seconds)
        await db.dispose()

    asyncio.run(job(0))
    asyncio.run(job(0))
    assert lines() == []
    asyncio.run(job(1))
    asyncio.run(job(0.3))
    assert len(lines()) == 1


PROGRAM = """
import asyncio, logging, os, sys
from sqlalchemy.ext.asyncio import create_async_engine
from sqla_poolguard import Guard, GuardedPool, _startup, snapshot
_startup._FIRST, _startup._QUIET = 0.05, 0.02
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)

async def serve():
    db = create_async_engine(sys.argv[1], poolclass=GuardedPool, guard=Guard(name="flood"), pool_size=2, max_overflow=0)
    async with db.connect():
        pass
    await asyncio.sleep(float(sys.argv[2]))
    await db.dispose()

workers = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        asyncio.run(serve())
        sys.stdout.flush()
        os._exit(0)
    workers.append(pid)
for pid in workers:
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each worker says it")
def test_of_many_workers_one_says_it(newest, tmp_path):
    """Three workers of one service, which connect at one time, say one line."""
    program = tmp_path / "service.py"
    program.write_text(textwrap.dedent(PROGRAM))
    environment = {
        **os.environ,
        "WEB_CONCURRENCY": "3",
        "PYTHONWARNINGS": "always",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, str(program), as_app(newest), "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True, cwd=Path.cwd())
    assert "poolguard-" not in done.stderr, "no warning about a socket that was not closed"
    assert done.stdout.count("pool 'flood': 2+0 x 3 processes (WEB_CONCURRENCY) = 6 of 17 usable slots") == 1
