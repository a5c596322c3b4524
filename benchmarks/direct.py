"""The pools of the drivers themselves, without SQLAlchemy: check out, SELECT 1, check in. What a user might pick instead."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.workload import Setting

__all__ = ["DIRECT"]


def _bare(url: str) -> str:
    return url.replace("+asyncpg", "")


async def _asyncpg(setting: Setting) -> tuple[Any, Any, Any]:
    """Make asyncpg's pool, and what to do with it."""
    import asyncpg  # noqa: PLC0415 - a rival's, wanted only here

    pool = await asyncpg.create_pool(_bare(setting.url), min_size=1, max_size=5)

    async def run(pool: Any, times: int) -> None:
        for _ in range(times):
            async with pool.acquire() as connection:
                await connection.fetchval("SELECT 1")

    return pool, run, pool.close


async def _psycopg(setting: Setting) -> tuple[Any, Any, Any]:
    """Make psycopg's pool, and what to do with it."""
    from psycopg_pool import AsyncConnectionPool  # noqa: PLC0415 - likewise

    pool = AsyncConnectionPool(_bare(setting.url), min_size=1, max_size=5, open=False)
    await pool.open(wait=True)

    async def run(pool: Any, times: int) -> None:
        for _ in range(times):
            async with pool.connection() as connection:
                await (await connection.execute("SELECT 1")).fetchone()

    return pool, run, pool.close


DIRECT: Final = tuple(
    (name, make if importlib.util.find_spec(module) else None)
    for name, module, make in (
        ("asyncpg.Pool, no SQLAlchemy", "asyncpg", _asyncpg),
        ("psycopg_pool, no SQLAlchemy", "psycopg_pool", _psycopg),
    )
)
"""Name, and what makes (pool, run, close); None where it is not installed."""
