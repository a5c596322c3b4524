"""
What it costs to look at those who hold a connection: `python -m benchmarks.sampling`.

CPU seconds of the thread in which the event loop runs, of the real sampler, on a real PostgreSQL.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware

from sqla_poolguard import Guard, GuardedPool, _reach, snapshot
from sqla_poolguard._cli.embedded import EmbeddedPostgres
from sqla_poolguard._ticker import ticker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

LEASES: Final = 20
DEPTH: Final = 20
"""Functions that await each other below a holder."""
LOOKS: Final = 200
FOR_EVER: Final = 3600.0
ONE: Final = text("SELECT 1")

Holder = Callable[[], Coroutine[Any, Any, None]]


def alone(engine: AsyncEngine) -> Holder:
    """Hold a connection at the bottom of many functions."""

    async def hold(depth: int = DEPTH) -> None:
        if depth:
            await hold(depth - 1)
            return
        async with AsyncSession(engine) as session:
            await session.execute(ONE)
            await asyncio.sleep(FOR_EVER)

    return hold


def grouped(engine: AsyncEngine) -> Holder:
    """Do so in a task group, where another task waits."""
    below = alone(engine)

    async def hold() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(FOR_EVER))
            await below()

    return hold


def in_fastapi(engine: AsyncEngine) -> Holder:
    """Do so in a route, with the session of a dependency, below two middlewares with tasks of their own."""

    async def session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as opened:
            yield opened

    class PassOn(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    app = FastAPI()
    app.add_middleware(PassOn)
    app.add_middleware(PassOn)

    async def route(session: Any) -> None:
        await session.execute(ONE)
        await asyncio.sleep(FOR_EVER)

    route.__annotations__["session"] = Annotated[AsyncSession, Depends(session)]
    app.get("/")(route)

    async def receive() -> dict[str, str]:
        return {"type": "http.request"}

    async def send(_: object) -> None:
        pass

    async def hold() -> None:
        await app({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}, receive, send)

    return hold


@asynccontextmanager
async def held(holder: Holder, engine: AsyncEngine) -> AsyncIterator[None]:
    """Have all connections held."""
    tasks = [asyncio.create_task(holder()) for _ in range(LEASES)]
    try:
        while snapshot(engine).used < LEASES:  # noqa: ASYNC110 - a pool tells nobody
            await asyncio.sleep(0.05)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Have every call of a function timed."""

    def call(*arguments: Any) -> Any:
        began = time.thread_time()
        result = function(*arguments)
        seconds.append(time.thread_time() - began)
        return result

    return call


async def look(url: str, hold: Callable[[AsyncEngine], Holder]) -> tuple[float, float]:
    """
    Look at holders that stand still.

    Returns:
        Seconds that one look at all of them takes as a rule, and the longest one, when they are looked at closely for the first time.
    """
    engine = create_async_engine(url, poolclass=GuardedPool, pool_size=LEASES, guard=Guard(hold_warning=None))
    sampler: Any = engine.sync_engine.pool._watch.sampler  # type: ignore[attr-defined]
    usual: list[float] = []
    first: list[float] = []
    sample = sampler.sample
    sampler.sample = timed(sample, first)
    async with held(hold(engine), engine):
        await asyncio.sleep(1.5)
        sampler.sample = sample
        beat = ticker.beat_of(asyncio.get_running_loop())
        for _ in range(LOOKS):
            timed(sample, usual)(beat, None)
    await engine.dispose()
    return statistics.median(usual), max(first)


def ask_the_collector(objects: int) -> float:
    """Ask the garbage collector who keeps a connection, in a process of about so many objects; give the seconds."""
    ballast = [[number] for number in range(objects)]
    seconds: list[float] = []
    for _ in range(5):
        timed(_reach.keepers, seconds)([ballast])
    return statistics.median(seconds)


async def follow(objects: int) -> float:
    """Follow what the loop still has to run to the end, past about so many objects; give the seconds."""
    ballast = [{"key": [number]} for number in range(objects // 2)]
    seconds: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(5):
        timed(_reach.is_within_reach, seconds)(loop, asyncio.all_tasks(), object())
    del ballast
    return statistics.median(seconds)


def main() -> None:
    """Measure, and print."""
    logging.disable()
    print(
        f"Python {sys.version.split()[0]}; {LEASES} idle leases, ten looks a second, the most with the default `await_warning`\n"
    )
    print("| the holders | one look | of a core | the first close look, all together |\n|---|---|---|---|")
    with EmbeddedPostgres() as postgres:
        for name, hold in (
            (f"{DEPTH} functions deep", alone),
            ("likewise, in a task group", grouped),
            ("FastAPI, below two `BaseHTTPMiddleware`s", in_fastapi),
        ):
            usual, first = asyncio.run(look(postgres.url(), hold))
            print(f"| {name} | {usual * 1e3:.2f} ms | {usual * 10:.2%} | {first * 1e3:.1f} ms |", flush=True)
    print("\n| where that does not tell | |\n|---|---|")
    for objects in (100_000, 1_000_000, 3_000_000):
        gc.collect()
        print(f"| the garbage collector is asked, {objects:,} objects | {ask_the_collector(objects) * 1e3:.1f} ms |", flush=True)
    for objects in (1_000, 20_000, 90_000):
        print(f"| an orphan is taken back, {objects:,} objects within reach | {asyncio.run(follow(objects)) * 1e3:.1f} ms |")


if __name__ == "__main__":
    main()
