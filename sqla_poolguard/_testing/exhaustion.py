"""Makes a pool full for a while, without a database: every connection that it could give is out, in nobody's hands."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqla_poolguard._callsite import capture
from sqla_poolguard._facts import Ending
from sqla_poolguard._finding import FindingKind
from sqla_poolguard._pool import GuardedPool
from sqla_poolguard._record import GuardedRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sqla_poolguard._callsite import Place

__all__ = ["exhaust"]

_caller = capture("site")


@contextmanager
def exhaust(engine: AsyncEngine | Engine | GuardedPool) -> Iterator[None]:
    """
    Make a pool look full for a block: who asks waits, or is turned away, as if all connections were out.

    It opens none. Those that are out go on, and can come back, when one is to be had again.

    Args:
        engine: the engine, or its pool.

    Raises:
        TypeError: it has no `GuardedPool`.
        ValueError: its pool has no limit.
    """
    pool = getattr(engine, "pool", engine)
    if not isinstance(pool, GuardedPool):
        msg = f"exhaust() wants an engine with poolclass=GuardedPool, or its pool; got {type(engine).__name__} with {type(pool).__name__}"
        raise TypeError(msg)
    if pool._slots.limit == math.inf:
        msg = f"exhaust() cannot fill pool {pool.name!r}, which has no limit; allowed: pool_size above 0, max_overflow 0 or more"
        raise ValueError(msg)
    taken = _take_all(pool, _caller(3))
    try:
        yield
    finally:
        for record in taken:
            _give_back(pool, record)


def _take_all(pool: GuardedPool, place: Place | None) -> list[GuardedRecord]:
    """Take every idle connection, and every free slot."""
    slots, taken = pool._slots, []
    while slots.idle:
        taken.append(slots.take())
    with slots._lock:
        while slots.taken < slots.limit:
            slots.taken += 1
            record = GuardedRecord(pool, connect=False)
            slots.fill(record)
            taken.append(record)
    for record in taken:
        pool._ledger.ask()
        pool._ledger.grant(record.lease, pool._clock(), 0.0)
        record.lease.place = place
        record.lease.note(FindingKind.OVERDUE, is_news=True)  # that nobody gives it back is no news
    return taken


def _give_back(pool: GuardedPool, record: GuardedRecord) -> None:
    """Give back what was taken; nothing can be awaited here, so what is one too many is cut off."""
    slots = pool._slots
    if record.dbapi_connection is not None and len(slots.idle) >= slots.keep and not slots.waiters.queued:
        record.abandon()
    record.lease.ending, record.lease.notes = Ending.CHECKED_IN, ()
    pool._do_return_conn(record)
