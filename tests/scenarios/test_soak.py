"""
Mixed traffic on a real PostgreSQL with two misbehaving requests in a hundred: each bad line is found in time, and no other is named.

`POOLGUARD_SOAK_SECONDS` says for how long, `POOLGUARD_SOAK_SEED` which traffic.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import time

import pytest
from scenarios.stage import ONE, Stage
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_poolguard import FindingKind

pytestmark = [pytest.mark.postgres, pytest.mark.storm]

SECONDS = float(os.environ.get("POOLGUARD_SOAK_SECONDS", "12"))
PATIENCE = 0.2
"""`await_warning`, in seconds; more than a machine with other work to do holds up a process, and far less than by default."""
AWAY = 0.7
"""Seconds that a misbehaving request holds its connection."""
IN_TIME = 1.0
"""Seconds within which the first offence of a line must be found."""


async def read(stage):
    """Read, and go."""
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)


async def write(stage):
    """Write some rows in a transaction, with a little work in between."""
    async with AsyncSession(stage.db) as session, session.begin():
        for _ in range(3):
            await session.execute(text("SELECT pg_sleep(0.003)"))
            await asyncio.sleep(0)


async def report(stage):
    """Run a long query."""
    async with AsyncSession(stage.db) as session:
        await session.execute(text("SELECT pg_sleep(0.4)"))


async def stream(stage):
    """Stream rows."""
    async with stage.db.connect() as connection, connection.stream(text("SELECT generate_series(1, 500)")) as rows:
        async for _ in rows:
            pass


async def commit_first(stage):
    """Call somebody else with nothing in hand."""
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await session.commit()
        await stage.http.get("/")


async def cancelled(stage):
    """Be cancelled in a query."""
    async with AsyncSession(stage.db) as session:
        try:
            async with asyncio.timeout(0.02):
                await session.execute(text("SELECT pg_sleep(1)"))
        except TimeoutError:
            pass


async def in_a_child(stage):
    """Query in a task of its own."""
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with asyncio.TaskGroup() as group:
            group.create_task(session.execute(text("SELECT pg_sleep(0.15)")))


async def sleeps(stage):
    """Misbehave: sleep with a connection."""
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.sleep(AWAY)  # HERE


async def calls(stage):
    """Misbehave: wait for an event with a transaction."""
    async with AsyncSession(stage.db) as session, session.begin():
        await session.execute(ONE)
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(AWAY, event.set)
        await event.wait()  # HERE


async def gathers(stage):
    """Misbehave: gather calls."""
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.gather(asyncio.sleep(AWAY), asyncio.sleep(AWAY))  # HERE


GOOD = (read, read, read, read, write, write, report, stream, commit_first, cancelled, in_a_child)
BAD = (sleeps, calls, gathers)


def line(request):
    """Find the marked line of a request."""
    source, first = inspect.getsourcelines(request)
    return next(first + offset for offset, row in enumerate(source) if row.rstrip().endswith("# HERE"))


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("seed", [int(os.environ.get("POOLGUARD_SOAK_SEED", "4711"))])
async def test_soak(seed, postgres_url):
    """Every misbehaving line is found within a second of its first offence; nothing else is named."""
    rnd = random.Random(seed)
    begun: dict[str, float] = {}
    found: dict[str, float] = {}
    names = {line(request): request.__name__ for request in BAD}
    served = bad = 0
    async with Stage(postgres_url, pool_size=30, pool_timeout=20, guard={"await_warning": PATIENCE}) as stage:

        async def one():
            nonlocal served, bad
            if rnd.random() < 0.02:
                request = rnd.choice(BAD)
                bad += 1
                begun.setdefault(request.__name__, time.monotonic())
            else:
                request = rnd.choice(GOOD)
            await request(stage)
            served += 1

        tasks: set[asyncio.Task[None]] = set()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            for _ in range(rnd.randrange(1, 4)):
                task = asyncio.create_task(one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
        stage.db.sync_engine.pool._ledger.check()
    alarms = []
    for at, finding in zip(stage.findings.at, stage.findings.all, strict=True):
        name = names.get(finding.current.line) if finding.current is not None and finding.current.file == __file__ else None
        if name is None or finding.kind is not FindingKind.HELD_ACROSS_AWAIT:
            alarms.append(finding)
        else:
            found.setdefault(name, at)
    print(f"{served} requests, {bad} of them bad, {len(found)} of {len(begun)} bad lines found")  # noqa: T201 - shown with -s
    assert alarms == []
    assert found.keys() == begun.keys()
    late = {name: found[name] - begun[name] for name in found}
    assert max(late.values()) < IN_TIME, late
