"""Many tasks: queues, bursts, a server that is down. Each block begins with a new pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks import driver, loads, rivals
from benchmarks.workload import LOAD, Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from benchmarks.rivals import Rival
    from benchmarks.workload import Setting

__all__ = ["WORKLOADS"]

_BOTH: Final = (rivals.STOCK, rivals.OURS)
_NOWHERE: Final = "postgresql+asyncpg://postgres@127.0.0.1:1/postgres"
"""A port where nobody listens."""


def _real(*, warm: int = 0, **options: Any) -> Callable[[Rival, Setting], Awaitable[AsyncEngine]]:
    async def ready(rival: Rival, setting: Setting) -> AsyncEngine:
        engine = rival.real(setting.url, pool_timeout=60, **options)
        await loads.warm(engine, warm)
        return engine

    return ready


def _fake(*, warm: int = 0, connect: float = 0.0, **options: Any) -> Callable[[Rival, Setting], Awaitable[AsyncEngine]]:
    async def ready(rival: Rival, _setting: Setting) -> AsyncEngine:
        engine = rival.fake(driver.creator(connect), pool_timeout=60, **options)
        await loads.warm(engine, warm)
        return engine

    return ready


async def _down(rival: Rival, _setting: Setting) -> AsyncEngine:
    return rival.real(_NOWHERE, pool_size=5, max_overflow=0, pool_timeout=2)


async def _done(engine: AsyncEngine) -> None:
    await engine.dispose()


_TEN: Final = {"pool_size": 10, "max_overflow": 0}
_DEFAULT: Final = {"pool_size": 5, "max_overflow": 10}

WORKLOADS: Final = (
    Workload(
        "contended", "200 tasks on 10 connections, 5 sessions each: SELECT 1, on PostgreSQL",
        LOAD, 1000, 11, _real(warm=10, **_TEN), lambda engine, n: loads.sessions(engine, 200, n // 200), _done,
        fresh=True, postgres=True,
    ),
    Workload(
        "burst-0", "1,000 tasks at once on 5+10 connections that open in no time and are held for none",
        LOAD, 1000, 11, _fake(**_DEFAULT), lambda engine, n: loads.burst(engine, n, 0.0), _done, fresh=True,
    ),
    Workload(
        "burst-2ms", "1,000 tasks at once on 5+10 connections; to open one takes 5 ms, each is held for 2 ms",
        (*LOAD, rivals.OURS_AT_ONCE), 1000, 11, _fake(connect=0.005, **_DEFAULT), lambda engine, n: loads.burst(engine, n, 0.002), _done, fresh=True,
    ),
    Workload(
        "burst-postgres", "600 tasks at once on 5+10 connections: pg_sleep of 20 ms, then 0.5 ms of CPU, on PostgreSQL",
        _BOTH, 600, 7, _real(**_DEFAULT), lambda engine, n: loads.jobs(engine, n, busy=0.0005), _done, fresh=True, postgres=True,
    ),
    Workload(
        "hiccup", "600 tasks at once on 5+10 connections: pg_sleep of 20 ms, on PostgreSQL; the event loop is blocked once for 50 ms",
        _BOTH, 600, 7, _real(**_DEFAULT), lambda engine, n: loads.jobs(engine, n, hiccup=0.05), _done, fresh=True, postgres=True,
    ),
    Workload(
        "commit-loop", "50 sessions on 10 connections execute and commit 20 times each, on PostgreSQL",
        LOAD, 1000, 11, _real(warm=10, **_TEN), lambda engine, n: loads.commit_loop(engine, 50, n // 50), _done,
        fresh=True, postgres=True,
    ),
    Workload(
        "tight-1", "the worst case: 20 tasks take turns on 1 connection, 200 times each, with a driver that takes no time",
        LOAD, 4000, 11, _fake(warm=1, pool_size=1, max_overflow=0), lambda engine, n: loads.tight(engine, 20, n // 20), _done,
        fresh=True,
    ),
    Workload(
        "tight-10", "likewise 200 tasks on 10 connections, 20 times each",
        LOAD, 4000, 11, _fake(warm=10, **_TEN), lambda engine, n: loads.tight(engine, 200, n // 200), _done, fresh=True,
    ),
    Workload(
        "down", "20 tasks on 5 connections while the server refuses all (pool_timeout 2 s): a wait is the time to the caller's error",
        _BOTH, 20, 3, _down, loads.errors, _done, fresh=True,
    ),
)  # fmt: skip
