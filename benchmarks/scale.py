"""Does a checkout cost more when more wait, or when the pool is larger? CPU per checkout, all sizes in the same rounds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from benchmarks import driver, loads, rivals
from benchmarks.workload import Workload

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from benchmarks.rivals import Rival
    from benchmarks.workload import Setting

__all__ = ["CONNECTIONS", "WAITERS", "WORKLOADS"]

WAITERS: Final = (10, 100, 1_000, 10_000)
CONNECTIONS: Final = (1, 10, 100, 1_000)
_BOTH: Final = (rivals.STOCK, rivals.OURS)

Subject = tuple["AsyncEngine", int]


async def _one(rival: Rival, setting: Setting) -> Subject:
    engine = rival.fake(driver.creator(), pool_size=1, max_overflow=0, pool_timeout=600)
    await loads.warm(engine, 1)
    return engine, setting.size


async def _many(rival: Rival, setting: Setting) -> Subject:
    engine = rival.fake(driver.creator(), pool_size=setting.size, max_overflow=0)
    await loads.warm(engine, setting.size)
    return engine, setting.size


async def _queue(subject: Subject, times: int) -> None:
    engine, waiters = subject

    async def work() -> None:
        connection = await engine.connect()
        await asyncio.sleep(0)
        await connection.close()

    for _ in range(times // waiters):
        await asyncio.gather(*(work() for _ in range(waiters)))


async def _all_out(subject: Subject, times: int) -> None:
    engine, connections = subject
    for _ in range(times // connections):
        for connection in [await engine.connect() for _ in range(connections)]:
            await connection.close()


async def _done(subject: Any) -> None:
    await subject[0].dispose()


WORKLOADS: Final = (
    Workload(
        "waiters", "tasks that queue for 1 connection, one checkout each, with a driver that takes no time",
        _BOTH, 10_000, 7, _one, _queue, _done, sizes=WAITERS,
    ),
    Workload(
        "connections", "all connections of a pool are taken, then given back, one after the other",
        _BOTH, 2_000, 15, _many, _all_out, _done, sizes=CONNECTIONS,
    ),
)  # fmt: skip
