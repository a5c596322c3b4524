"""What many tasks do to a pool at the same time; each returns how long every checkout waited. It knows neither rivals nor servers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SELECT", "burst", "commit_loop", "errors", "jobs", "sessions", "tight", "warm"]

SELECT = text("SELECT 1")
_SLEEP = text("SELECT pg_sleep(0.02)")
_now = time.perf_counter


async def warm(engine: AsyncEngine, count: int) -> None:
    """Open so many connections, and leave them idle."""
    for connection in [await engine.connect() for _ in range(count)]:
        await connection.close()


async def tight(engine: AsyncEngine, tasks: int, each: int) -> list[float]:
    """Check out, let others run once, check in, and at once again; with a driver that answers in no time."""
    waits: list[float] = []

    async def work() -> None:
        for _ in range(each):
            asked = _now()
            connection = await engine.connect()
            waits.append(_now() - asked)
            await asyncio.sleep(0)
            await connection.close()

    await asyncio.gather(*(work() for _ in range(tasks)))
    return waits


async def burst(engine: AsyncEngine, tasks: int, hold: float) -> list[float]:
    """Let all tasks ask at once, hold for some seconds, and be done."""
    waits: list[float] = []

    async def work() -> None:
        asked = _now()
        async with engine.connect():
            waits.append(_now() - asked)
            await asyncio.sleep(hold)

    await asyncio.gather(*(work() for _ in range(tasks)))
    return waits


async def sessions(engine: AsyncEngine, tasks: int, each: int) -> list[float]:
    """Open a session, SELECT 1, close it, several times in each task."""
    waits: list[float] = []

    async def work() -> None:
        for _ in range(each):
            async with AsyncSession(engine) as session:
                asked = _now()
                await session.connection()
                waits.append(_now() - asked)
                await session.execute(SELECT)

    await asyncio.gather(*(work() for _ in range(tasks)))
    return waits


async def commit_loop(engine: AsyncEngine, tasks: int, each: int) -> list[float]:
    """Execute and commit, over and over, in one session per task: each commit gives the connection back."""
    waits: list[float] = []

    async def work() -> None:
        async with AsyncSession(engine) as session:
            for _ in range(each):
                asked = _now()
                await session.connection()
                waits.append(_now() - asked)
                await session.execute(SELECT)
                await session.commit()

    await asyncio.gather(*(work() for _ in range(tasks)))
    return waits


async def jobs(engine: AsyncEngine, tasks: int, *, busy: float = 0.0, hiccup: float = 0.0) -> list[float]:
    """
    Let all tasks run a statement of 20 ms at once, with some CPU time after it.

    Args:
        engine: where to run it.
        tasks: how many.
        busy: seconds for which each task computes while it holds its connection.
        hiccup: seconds for which the event loop is blocked, once, a quarter of a second after the start.
    """
    waits: list[float] = []

    async def work() -> None:
        async with AsyncSession(engine) as session:
            asked = _now()
            await session.connection()
            waits.append(_now() - asked)
            await session.execute(_SLEEP)
            until = _now() + busy
            while _now() < until:
                pass

    async def block() -> None:
        if hiccup:
            await asyncio.sleep(0.25)
            time.sleep(hiccup)  # noqa: ASYNC251 - that is what is tried

    await asyncio.gather(block(), *(work() for _ in range(tasks)))
    return waits


async def errors(engine: AsyncEngine, tasks: int) -> list[float]:
    """Let all tasks ask a server that is down; return when each had its error."""
    waits: list[float] = []

    async def work() -> None:
        asked = _now()
        try:
            async with engine.connect():
                pass
        except Exception:  # noqa: BLE001 - whatever it is: the caller knows
            waits.append(_now() - asked)

    await asyncio.gather(*(work() for _ in range(tasks)))
    return waits
