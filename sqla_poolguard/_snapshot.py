"""Look at a pool from outside, through whatever the caller has in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqla_poolguard._pool import GuardedPool

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sqla_poolguard._facts import PoolSnapshot

__all__ = ["guarded", "snapshot"]


def snapshot(engine_or_pool: AsyncEngine | Engine | GuardedPool) -> PoolSnapshot:
    """
    Look at the pool of an engine as it is now: counts, who holds, who waits.

    Args:
        engine_or_pool: an `AsyncEngine`, its `sync_engine`, or the pool itself.

    Raises:
        TypeError: it has no `GuardedPool`.
    """
    return guarded(engine_or_pool).snapshot()


def guarded(engine_or_pool: AsyncEngine | Engine | GuardedPool) -> GuardedPool:
    """
    Give the guarded pool of an engine.

    Raises:
        TypeError: it has none.
    """
    pool = getattr(engine_or_pool, "pool", engine_or_pool)
    if not isinstance(pool, GuardedPool):
        given = type(engine_or_pool).__name__ + (f" with {type(pool).__name__}" if pool is not engine_or_pool else "")
        msg = f"an engine with poolclass=GuardedPool is wanted, or its pool; got {given}"
        raise TypeError(msg)
    return pool
