"""Both pools for one test: SQLAlchemy's own, which must fail it in the way that is named, and GuardedPool, which must pass."""

from __future__ import annotations

import contextlib
import gc
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from doubles.pools import TimedPool
from sqlalchemy import text
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from sqla_poolguard import GuardedPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

BACKEND = text("SELECT pg_backend_pid()")


def both(weakness: str, raises: Any = AssertionError, *, timed: bool = True, **guard: Any) -> pytest.MarkDecorator:
    """
    Run a test with `pool` as the stock pool, where it is expected to fail, and as GuardedPool.

    Args:
        weakness: what is wrong with the stock pool.
        raises: how the stock pool fails; any other failure, such as a missing PostgreSQL, is none that is expected.
        timed: whether GuardedPool reads the event loop's clock, which is virtual, or the real one.
        guard: options of `Guard`; the stock pool knows none.
    """
    ours = (TimedPool if timed else GuardedPool).configure(**guard)
    wrong = pytest.mark.xfail(strict=True, raises=raises, reason=weakness)
    return pytest.mark.parametrize(
        "pool", [pytest.param(AsyncAdaptedQueuePool, id="stock", marks=wrong), pytest.param(ours, id="guarded")]
    )


@contextlib.asynccontextmanager
async def connected(url: str, pool: Any, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Give an engine on a real PostgreSQL for as long as the block lasts."""
    db = create_async_engine(url, poolclass=pool, **options)
    try:
        yield db
    finally:
        await db.dispose()


async def backend(connection: AsyncConnection) -> int:
    """Tell which of the server's processes serves a connection."""
    return (await connection.execute(BACKEND)).scalar_one()


async def backend_of(db: AsyncEngine) -> int:
    """Check out a connection for a moment, and tell which of the server's processes serves it."""
    async with db.connect() as connection:
        return await backend(connection)


def outcome(work: Callable[[], Any]) -> Any:
    """
    Do something that may leave open connections lying about, as the stock pool does and a closed event loop must.

    They are collected here, where nobody is warned, and not in the middle of another test.

    Returns:
        What it returned, or the error it raised, as text: the error itself would hold on to the connections.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed", ResourceWarning)
        warnings.filterwarnings("ignore", "The garbage collector is trying to clean up", SAWarning)
        try:
            told = work()
        except Exception as error:  # noqa: BLE001 - each pool fails in its own way
            told = f"{type(error).__name__}: {error}"
        gc.collect()
    return told
