"""A canary for every private part of a driver, of asyncio or of SQLAlchemy on which looking rests; and what happens without it."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from scenarios.stage import LONG, ONE, SLEEP, Stage
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util.concurrency import greenlet_spawn

from sqla_poolguard import _awaits, _joins, _probe, _reach, snapshot

pytestmark = pytest.mark.postgres


async def raw(connection):
    """Give the driver's connection."""
    return (await connection.get_raw_connection()).driver_connection


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_driver_tells(driver, postgres_url):
    """The driver says whether the database works for a connection, whether a transaction is open, and counts what it is asked."""
    async with Stage(postgres_url.replace("asyncpg", driver)) as stage, stage.db.connect() as connection:
        own = await raw(connection)
        before = _probe.look(own)
        assert (before.busy, before.in_transaction) == (False, False)
        await connection.execute(ONE)
        after = _probe.look(own)
        assert (after.busy, after.in_transaction) == (False, True)
        assert after.operations > before.operations
        task = asyncio.create_task(connection.execute(SLEEP))
        await asyncio.sleep(LONG / 2)
        during = _probe.look(own)
        assert during.busy
        assert during.user is task
        await task
        assert not _probe.look(own).busy


async def test_unknown_driver(postgres_url):
    """Of a driver that is not known, or that has changed, nothing is said; a connection is used as ever."""
    assert _probe.look(object()) is None
    changed = type("Connection", (), {"__module__": "asyncpg.connection"})()
    assert _probe.look(changed) is None
    changed = type("AsyncConnection", (), {"__module__": "psycopg"})()
    _probe.count_operations(changed)
    assert _probe.look(changed) is None


async def test_probe_that_fails_finds_nothing(postgres_url, monkeypatch):
    """Without the probe no hold is found, and nothing breaks."""
    monkeypatch.setattr(_probe, "_PROBES", {})
    async with Stage(postgres_url) as stage:
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            await asyncio.sleep(LONG)
        assert stage.findings.all == []


async def test_sampler_that_fails_is_said_once(postgres_url, monkeypatch, caplog):
    """A bug in looking is logged once and breaks nothing."""

    def broken(_task):
        raise RuntimeError

    async with Stage(postgres_url) as stage:
        monkeypatch.setattr("sqla_poolguard._sight.chain_of", broken)
        for _ in range(3):
            async with AsyncSession(stage.db) as session:
                await session.execute(ONE)
                await asyncio.sleep(LONG)
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            assert snapshot(stage.db).used == 1
        bugs = [record.getMessage() for record in caplog.records if record.getMessage().startswith("bug")]
        assert len(bugs) == 1


async def test_greenlets_frames_are_seen(postgres_url):
    """`greenlet_spawn` keeps its greenlet in a local variable `context`, and the greenlet its frame."""
    assert "context" in greenlet_spawn.__code__.co_varnames
    async with Stage(postgres_url) as stage, AsyncSession(stage.db) as session:

        def work(inner):
            inner.execute(SLEEP)

        task = asyncio.create_task(session.run_sync(work))
        await asyncio.sleep(LONG / 2)
        chain = _awaits.chain_of(task)
        assert any(hop.in_greenlet and hop.name.endswith("work") for hop in chain.hops)
        assert chain.is_within((await asyncio.to_thread(lambda: stage.db.sync_engine.pool._slots.out()[0])).driver_connection)
        await task


async def test_tasks_future_and_context():
    """A task says what it waits for, and its context can be had on every Python."""
    task = asyncio.create_task(asyncio.sleep(5))
    await asyncio.sleep(0)
    chain = _awaits.chain_of(task)
    assert task._fut_waiter is chain.future
    assert list(_joins.waiting_tasks(chain.future)) == [task]
    assert _awaits.context_of(chain) is not None
    task.cancel()


async def wait_for_it(task):
    """Await a task."""
    await task


async def in_gather(task):
    """Gather it."""
    await asyncio.gather(task)


async def in_wait(task):
    """Wait for it."""
    await asyncio.wait({task})


async def in_shield(task):
    """Shield it."""
    await asyncio.shield(task)


async def in_wait_for(task):
    """Wait for it with a timeout."""
    await asyncio.wait_for(task, 60)


async def in_a_group(task):
    """Wait for it in a task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_it(task))


@pytest.mark.parametrize(
    "how", [wait_for_it, in_gather, in_wait, in_shield, in_wait_for, in_a_group], ids=lambda how: how.__name__
)
async def test_joins_are_seen(how):
    """Every way to wait for a task is known."""
    child = asyncio.create_task(asyncio.sleep(5))
    parent = asyncio.create_task(how(child))
    for _ in range(3):
        await asyncio.sleep(0)
    joined = _joins.joined(_awaits.chain_of(parent))
    if how is in_a_group:
        joined = _joins.joined(_awaits.chain_of(joined[0]))
    assert joined == [child]
    child.cancel()
    await asyncio.wait([parent])


async def test_sessions_connections_are_seen(postgres_url):
    """A session's transaction knows its connections, and a connection the pool's."""
    async with Stage(postgres_url) as stage, AsyncSession(stage.db) as session:
        connection = await session.connection()
        assert set(_reach._connections(session)) == {connection.sync_connection}
        assert connection.sync_connection._dbapi_connection is stage.db.sync_engine.pool._slots.out()[0].fairy_ref()
        assert _reach._connections(connection) == [connection.sync_connection]
        entries = list(session.sync_session.get_transaction()._connections.values())
        assert entries[0][3] is True, "the session's own, to be closed by it"
        assert "_trans_context_manager" in vars(type(session.sync_session))


def test_shields_callback_is_named_so():
    """What `asyncio.shield` hangs on its future is known by name."""
    assert "_outer_done_callback" in inspect.getsource(asyncio.shield)


def test_container_that_changes_meanwhile():
    """Another thread, or a weak reference whose time has come, may change what is looked at: it tells nothing then."""
    things = {1: "one", 2: "two"}

    def changing():
        for key in things:
            yield key
            things[key + 10] = "more"

    assert _reach._some(changing()) == []
    assert "one" in _reach._held_by(things)
