"""Measure what a connection costs here, and what it costs to ask whether one is still there."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._cli.doctor.connecting import ask
from sqla_poolguard._cli.doctor.sights import Cost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

__all__ = ["measure"]

_ROUNDS: Final = 7
_SECONDS: Final = 0.4
"""For all rounds; far away it is fewer of them."""
_QUERY: Final = "SELECT count(*)::int FROM pg_catalog.pg_class WHERE oid < 100"


async def measure(opened: asyncpg.Connection[Any], connect: list[tuple[str, float]], tls: str | None, *, pooled: bool) -> Cost:
    """
    Measure, in turns.

    Args:
        opened: a connection, outside of a transaction.
        connect: what it took to open it, phase by phase.
        tls: the version that is spoken on it.
        pooled: whether there is a pooler in between, to which no statement with a name is given.
    """
    phases = [*connect]
    for name in ("first query", "same query again"):
        async with opened.transaction():
            phases.append((name, await _timed(lambda: ask(opened, _QUERY))))
    stock, own = [], []
    if not pooled:
        await _stock_ping(opened)  # the first one prepares its statement, which the next ones find
    enough = time.perf_counter() + _SECONDS
    for turn in range(_ROUNDS):
        if turn and time.perf_counter() > enough:
            break
        if not pooled:
            stock.append(await _timed(lambda: _stock_ping(opened)))
        own.append(await _timed(lambda: opened.execute("SELECT 1")))
    return Cost(
        phases=tuple(phases),
        round_trip=min(own),
        stock_ping=statistics.median(stock) if stock else None,
        own_ping=statistics.median(own),
        tls=tls,
    )


async def _stock_ping(opened: asyncpg.Connection[Any]) -> None:
    """Do what SQLAlchemy's asyncpg dialect does for `pool_pre_ping`."""
    transaction = opened.transaction()
    await transaction.start()
    try:
        await opened.fetchrow(";")
    finally:
        await transaction.rollback()


async def _timed(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return time.perf_counter() - began
