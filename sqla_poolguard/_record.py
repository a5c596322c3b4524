"""The connection record that carries its lease, and the event listeners that learn how a lease is going to end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.pool.base import _ConnectionRecord

from sqla_poolguard._facts import Ending
from sqla_poolguard._ledger import Lease

if TYPE_CHECKING:
    from sqlalchemy.pool import PoolResetState

    from sqla_poolguard._pool import GuardedPool

__all__ = ["GuardedRecord", "listen"]


class GuardedRecord(_ConnectionRecord):
    """A connection record with room for a lease. One caller has it at a time, so one lease serves them all."""

    __slots__ = ("guarded", "lease")

    def __init__(self, pool: GuardedPool, *, connect: bool = True) -> None:
        self.guarded = pool
        self.lease = Lease()
        super().__init__(pool, connect=connect)


def listen(pool: GuardedPool) -> None:
    """
    Let the listeners below hear of a pool.

    They are functions and reach the pool through the record, so that the copy of them
    that SQLAlchemy makes for a recreated pool is right too.
    """
    event.listen(pool, "connect", _connected)
    event.listen(pool, "close", _closed)
    event.listen(pool, "invalidate", _invalidated)
    event.listen(pool, "soft_invalidate", _invalidated)
    if not pool._fast:  # on the fast lane our own weak reference tells, and a listener here would close it
        event.listen(pool, "reset", _reset)
    event.listen(pool, "detach", _detached)


def _connected(_connection: object, record: GuardedRecord) -> None:
    # SQLAlchemy notes in `starttime` when it began to connect, on the wall clock; a clock that was set back reads as 0
    record.guarded._watch.opened(max(time.time() - record.starttime, 0.0))


def _closed(_connection: object, record: GuardedRecord) -> None:
    record.guarded._ledger.closed += 1


def _detached(_connection: object, record: GuardedRecord) -> None:
    record.guarded._ledger.departed += 1


def _invalidated(_connection: object, record: GuardedRecord, _error: BaseException | None) -> None:
    record.lease.ending = Ending.INVALIDATED


def _reset(_connection: object, record: GuardedRecord | None, state: PoolResetState) -> None:
    """Recognise the garbage collector at work: it may reset nothing, and can only terminate."""
    if state.terminate_only and not state.asyncio_safe and record is not None:
        record.lease.ending = Ending.LEAKED
