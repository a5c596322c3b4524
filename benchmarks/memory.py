"""Memory per connection that is out and per waiter, as tracemalloc sees it: Python's objects, not the C stacks of greenlets."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.util.concurrency import greenlet_spawn

from benchmarks import driver, loads, rivals

if TYPE_CHECKING:
    from benchmarks.rivals import Rival

__all__ = ["RIVALS", "measure"]

RIVALS: Final = (rivals.FLOOR, rivals.STOCK, rivals.LISTENERS, rivals.OURS)
_MANY: Final = 1_000


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def measure(rival: Rival) -> dict[str, float]:
    """
    Measure bytes.

    Returns:
        `per connection out`: what a checkout adds, to a connection that was idle, until it is given back.
        `per waiter`: what a task that waits for a connection takes, the task and its coroutine included.
    """
    tracemalloc.start()
    try:
        figures = {"per connection out": await _per_connection(rival)}
        if rival.name != rivals.FLOOR:  # nobody ever waits there
            figures["per waiter"] = await _per_waiter(rival)
    finally:
        tracemalloc.stop()
    return figures


async def _per_connection(rival: Rival) -> float:
    engine = rival.fake(driver.creator(), pool_size=_MANY, max_overflow=0)
    await loads.warm(engine, _MANY)
    pool, out = engine.sync_engine.pool, [None] * _MANY

    def take() -> None:
        for number in range(_MANY):
            out[number] = pool.connect()  # type: ignore[call-overload]

    def give_back() -> None:
        for fairy in out:
            fairy.close()  # type: ignore[attr-defined]

    before = _traced()
    await greenlet_spawn(take)
    grown = _traced() - before
    await greenlet_spawn(give_back)
    await engine.dispose()
    return grown / _MANY


async def _per_waiter(rival: Rival) -> float:
    engine = rival.fake(driver.creator(), pool_size=1, max_overflow=0, pool_timeout=600)
    held = await engine.connect()

    async def wait() -> Any:
        async with engine.connect():
            pass

    first = asyncio.create_task(wait())  # what is made for the first waiter only
    await asyncio.sleep(0)
    before = _traced()
    tasks = [asyncio.create_task(wait()) for _ in range(_MANY)]
    for _ in range(3):
        await asyncio.sleep(0)
    grown = _traced() - before
    await held.close()
    await asyncio.gather(first, *tasks)
    await engine.dispose()
    return grown / _MANY
