"""The connection record that carries its lease, and the event listeners that learn how a lease is going to end."""

from __future__ import annotations

import time
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.pool.base import _ConnectionRecord

from sqla_poolguard._facts import Ending
from sqla_poolguard._ledger import Lease

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from sqlalchemy.pool import PoolResetState

    from sqla_poolguard._pool import GuardedPool

__all__ = ["GuardedRecord", "listen"]

_AT_HOME_EVERYWHERE: Final = frozenset({"aiosqlite", "psycopg", "psycopg_async"})
"""Drivers whose connections keep nothing of the event loop in which they were opened."""


class GuardedRecord(_ConnectionRecord):
    """A connection record with room for a lease. One caller has it at a time, so one lease serves them all."""

    __slots__ = ("guarded", "lease", "loop")

    def __init__(self, pool: GuardedPool, *, connect: bool = True) -> None:
        self.guarded = pool
        self.lease = Lease()
        self.loop: AbstractEventLoop | None = None
        """The event loop in which the connection was opened."""
        super().__init__(pool, connect=connect)

    def is_foreign(self) -> bool:
        """Tell whether the connection was opened in another event loop than the running one, and cannot leave it."""
        running = _get_running_loop()
        if self.loop is running or self.loop is None or running is None or self.dbapi_connection is None:
            return False
        if getattr(self.guarded._dialect, "driver", None) in _AT_HOME_EVERYWHERE:
            self.loop = running
            return False
        return True

    def abandon(self) -> None:
        """Drop a foreign connection. Nothing can be awaited in its loop from here, so it is cut off, not closed politely."""
        connection, self.dbapi_connection = self.dbapi_connection, None
        self.guarded.dispatch.close(connection, self)
        if not self.cut_off_later(connection) and (running := _get_running_loop()) is not None:
            running.call_soon(_cut_off, self.guarded, connection)

    def cut_off_later(self, connection: Any) -> bool:
        """Have a connection terminated by the event loop in which it was opened; False if that does not run any more."""
        loop = self.loop
        if loop is None or not loop.is_running():
            return False
        try:
            loop.call_soon_threadsafe(_cut_off, self.guarded, connection)
        except RuntimeError:  # closed between the two calls
            return False
        return True


def _cut_off(pool: GuardedPool, connection: Any) -> None:
    """Terminate a connection outside SQLAlchemy's greenlets, where its adapters do so without awaiting."""
    try:
        pool._dialect.do_terminate(connection)
    except Exception as error:  # noqa: BLE001 - the loop it belongs to is closed; the garbage collector closes the socket
        pool.logger.debug("Connection %r of another event loop was dropped: %r", connection, error)


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
    record.loop = _get_running_loop()
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
