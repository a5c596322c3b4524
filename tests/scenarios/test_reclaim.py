"""A connection whose task has finished is taken back, where that was asked for, unless anybody can still use it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import weakref
from collections import deque
from contextvars import ContextVar
from types import SimpleNamespace

import pytest
from scenarios.stage import LONG, ONE, ORPHANED, SLEEP, Stage

from sqla_poolguard import ConnectionReclaimedError, snapshot

pytestmark = pytest.mark.postgres


kept = []


async def test_reclaim(postgres_url):
    """With `reclaim="orphaned"` a connection whose task has finished goes to whoever waits; its stale handle says why."""
    async with Stage(postgres_url, pool_size=1, guard={"reclaim": "orphaned"}) as stage:

        async def job():
            kept.append(await stage.db.connect())
            await kept[0].execute(ONE)

        await asyncio.create_task(job())
        async with stage.db.connect() as connection:
            assert (await connection.execute(ONE)).scalar() == 1
        pool = stage.db.sync_engine.pool
        pool._ledger.check()
        assert [finding.kind for finding in stage.findings.all] == [ORPHANED]
        assert snapshot(stage.db).ended["reclaimed"] == 1
        assert pool._ledger.totals.leaks == {"garbage_collected": 0, "orphaned": 0, "reclaimed": 1}
        with pytest.raises(ConnectionReclaimedError, match="was taken back: the task that had checked it out had finished"):
            await kept[0].execute(ONE)
        await kept[0].close()
        kept.clear()
        gc.collect()
        pool._ledger.check()
        assert pool.checkedout() == 0


def _deep(connection):
    """Keep it five attributes away."""
    root = SimpleNamespace()
    root.a = SimpleNamespace(b=SimpleNamespace(c=SimpleNamespace(d=SimpleNamespace(connection=connection))))
    return root


def _closure(connection):
    async def use():
        await connection.execute(ONE)

    return use


WAYS = {
    "attributes": _deep,
    "closure": _closure,
    "partial": lambda connection: functools.partial(print, connection),
    "method": lambda connection: connection.execute,
    "timer": lambda connection: asyncio.get_running_loop().call_later(60, print, connection).cancelled,
    "exit stack": lambda connection: contextlib.AsyncExitStack().push_async_callback(connection.close),
}


@pytest.mark.parametrize("way", WAYS)
async def test_reclaim_leaves_alone_what_is_within_reach(way, postgres_url):
    """However indirectly a task or a timer gets at it: a connection that can still be used is not taken back."""
    async with Stage(postgres_url, pool_size=1, guard={"reclaim": "orphaned"}) as stage:
        connections = []

        async def job():
            connections.append(await stage.db.connect())
            await connections[0].execute(ONE)

        await asyncio.create_task(job())
        keep = WAYS[way](connections[0])
        connection = weakref.ref(connections.pop())
        await asyncio.sleep(LONG)
        assert keep is not None
        assert snapshot(stage.db).ended["reclaimed"] == 0
        assert (await connection().execute(ONE)).scalar() == 1
        await connection().close()


class Slotted:
    """Keeps a connection where no dictionary shows it."""

    __slots__ = ("connection",)


async def test_reclaim_leaves_alone_what_a_task_can_reach(postgres_url):
    """A connection that a living task can reach, however it keeps it, is not taken back."""
    async with Stage(postgres_url, pool_size=8, guard={"reclaim": "orphaned"}) as stage:
        variable = ContextVar("connection")
        slotted, queue, pair = Slotted(), deque(), []

        async def open_some():
            slotted.connection = await stage.db.connect()
            queue.append(await stage.db.connect())
            pair.append((await stage.db.connect(), 1))

        await asyncio.create_task(open_some())

        async def set_variable():
            kept.append(await stage.db.connect())
            variable.set(kept[0])
            return asyncio.create_task(asyncio.sleep(LONG * 2))

        sleeper = await asyncio.create_task(set_variable())
        await asyncio.sleep(LONG * 2)
        assert snapshot(stage.db).ended["reclaimed"] == 0
        for connection in (slotted.connection, queue[0], pair[0][0], kept.pop()):
            assert (await connection.execute(ONE)).scalar() == 1
            await connection.close()
        await sleeper


async def test_reclaim_leaves_others_alone(postgres_url):
    """Nothing is taken back that is in use, declared, or in a living task's hands."""
    async with Stage(postgres_url, guard={"reclaim": "orphaned"}) as stage:

        async def job():
            kept.append(await stage.db.connect())
            await kept[0].execution_options(poolguard_hold="leader")

        async def slow():
            connection = await stage.db.connect()
            kept.append(connection)
            asyncio.get_running_loop().call_soon(lambda: None)
            return asyncio.create_task(connection.execute(SLEEP))

        await asyncio.create_task(job())
        running = await asyncio.create_task(slow())
        mine = kept[0]
        await asyncio.sleep(LONG / 2)
        await running
        assert (await mine.execute(ONE)).scalar() == 1
        for connection in kept:
            await connection.close()
        kept.clear()
        assert snapshot(stage.db).ended["reclaimed"] == 0
