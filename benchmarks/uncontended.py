"""One caller, one connection, nobody waits: what a pool costs when it has nothing to decide."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util.concurrency import greenlet_spawn

from benchmarks import driver
from benchmarks.direct import DIRECT
from benchmarks.workload import FLOORS, UNCONTENDED, WITH_ENGINE, Workload

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from benchmarks.rivals import Rival
    from benchmarks.workload import Setting

__all__ = ["WORKLOADS"]

_STEADY: Final = 20_000
"""Checkouts before anything is measured: GuardedPool's buffer of samples is full by then, and the rest pay for it, as in production."""

_SELECT = text("SELECT 1")

# In an application `pool.connect()` is called by SQLAlchemy, in its greenlet, and the application's frame is outside.
# This is compiled as if it were a file of SQLAlchemy's, so that the call site is found in the same way here.
_AS_SQLALCHEMY: Final[dict[str, Any]] = {}
exec(
    compile(
        "async def spawn(greenlet_spawn, work):\n"
        "    await greenlet_spawn(work)\n"
        "def work(pool, times):\n"
        "    for _ in range(times):\n"
        "        pool.connect().close()\n",
        os.path.join(os.path.dirname(sqlalchemy.__file__), "engine", "as_benchmarked.py"),
        "exec",
    ),
    _AS_SQLALCHEMY,
)


def _in_greenlet(pool: Any, times: int) -> None:
    for _ in range(times):
        pool.connect().close()


async def _bare(rival: Rival, _setting: Setting) -> Any:
    pool = rival.bare()
    await greenlet_spawn(_in_greenlet, pool, _STEADY)
    return pool


async def _fake(rival: Rival, _setting: Setting) -> AsyncEngine:
    engine = rival.fake(driver.creator())
    await greenlet_spawn(_in_greenlet, engine.sync_engine.pool, _STEADY)
    return engine


async def _real(rival: Rival, setting: Setting) -> AsyncEngine:
    engine = rival.real(setting.url)
    async with engine.connect():
        pass
    await greenlet_spawn(_in_greenlet, engine.sync_engine.pool, _STEADY)
    return engine


async def _outside(pool: Any, times: int) -> None:
    await _AS_SQLALCHEMY["spawn"](greenlet_spawn, partial(_AS_SQLALCHEMY["work"], pool, times))


async def _inside(pool: Any, times: int) -> None:
    await greenlet_spawn(_in_greenlet, pool, times)


async def _engine(engine: AsyncEngine, times: int) -> None:
    for _ in range(times):
        connection = await engine.connect()
        await connection.close()


async def _async_with(engine: AsyncEngine, times: int) -> None:
    for _ in range(times):
        async with engine.connect():
            pass


async def _session(engine: AsyncEngine, times: int) -> None:
    for _ in range(times):
        async with AsyncSession(engine) as session:
            await session.execute(_SELECT)


async def _pool_done(pool: Any) -> None:
    await greenlet_spawn(pool.dispose)


async def _engine_done(engine: AsyncEngine) -> None:
    await engine.dispose()


WORKLOADS: Final = (
    Workload(
        "pool",
        "pool.connect() and close() in one greenlet, call site found outside it, as under an engine (the headline)",
        UNCONTENDED, 400, 150, _bare, _outside, _pool_done, counted=True,
    ),
    Workload(
        "pool-inside",
        "the same, called from application code inside the greenlet, as under run_sync(): the call site is found the other way",
        UNCONTENDED, 400, 150, _bare, _inside, _pool_done, counted=True,
    ),
    Workload(
        "engine",
        "await engine.connect() and await connection.close()",
        WITH_ENGINE, 80, 150, _fake, _engine, _engine_done, counted=True,
    ),
    Workload(
        "async-with",
        "async with engine.connect(): pass",
        WITH_ENGINE, 50, 100, _fake, _async_with, _engine_done, counted=True,
    ),
    Workload(
        "session",
        "async with AsyncSession(engine): SELECT 1, on PostgreSQL",
        WITH_ENGINE, 15, 100, _real, _session, _engine_done, postgres=True, more=DIRECT,
    ),
    Workload(
        "pool-floor", "as pool: what no pool can save, and what no proxy can", FLOORS, 400, 150, _bare, _outside, _pool_done, counted=True,
    ),
    Workload(
        "engine-floor", "as engine, likewise", FLOORS, 80, 150, _fake, _engine, _engine_done, counted=True,
    ),
    Workload(
        "session-floor", "as session, likewise", FLOORS, 15, 100, _real, _session, _engine_done, postgres=True,
    ),
)  # fmt: skip
