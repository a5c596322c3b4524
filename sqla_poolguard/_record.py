"""The connection record that carries its lease, and the event listeners that learn how a lease is going to end."""

from __future__ import annotations

import contextlib
import threading
import time
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, Final

import greenlet
from sqlalchemy import event
from sqlalchemy.pool.base import _ConnectionRecord

from sqla_poolguard._facts import Ending
from sqla_poolguard._inspector import open_inspector
from sqla_poolguard._ledger import Lease
from sqla_poolguard._probe import count_operations, driver_of
from sqla_poolguard._slow import time_statements
from sqla_poolguard._startup import introduce

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from sqlalchemy.pool import PoolResetState

    from sqla_poolguard._pool import GuardedPool

__all__ = ["POLITE", "GuardedRecord", "cut_off", "is_leaked", "leaked", "listen"]

POLITE: Final = 0.25
"""Seconds that a connection which is terminated has to say goodbye."""

_found: Final = threading.local()

_AT_HOME_EVERYWHERE: Final = frozenset({"aiosqlite", "psycopg", "psycopg_async"})
"""Drivers whose connections keep nothing of the event loop in which they were opened."""


class GuardedRecord(_ConnectionRecord):
    """A connection record with room for a lease. One caller has it at a time, so one lease serves them all."""

    __slots__ = ("counted", "guarded", "lease", "loop")

    def __init__(self, pool: GuardedPool, *, connect: bool = True) -> None:
        self.guarded = pool
        self.lease = Lease()
        self.loop: AbstractEventLoop | None = None
        """The event loop in which the connection was opened."""
        self.counted = False
        """Whether its connection is in the books as opened, and not yet as gone."""
        try:
            super().__init__(pool, connect=connect)
        except BaseException:
            self.write_off()
            raise

    def write_off(self) -> None:
        """Note that the connection is closed. One that a `connect` listener refused SQLAlchemy closes without a word."""
        if self.counted:
            self.counted = False
            self.guarded._ledger.closed += 1

    def is_foreign(self) -> bool:
        """Tell whether the connection was opened in another event loop than the running one, and cannot leave it."""
        running = _get_running_loop()
        if self.loop is running or self.loop is None or running is None or self.dbapi_connection is None:
            return False
        if getattr(self.guarded._dialect, "driver", None) in _AT_HOME_EVERYWHERE:
            self.loop = running
            return False
        return True

    def is_out_of_reach(self) -> bool:
        """Tell whether its connection cannot be closed politely, since that takes an event loop, and none is running here."""
        return self.loop is not None and self.dbapi_connection is not None and _get_running_loop() is None

    def get_connection(self) -> Any:
        """Give the connection; if it is gone, connect anew. One that is there was found good just before, unless nobody has taken it."""
        if self.dbapi_connection is None or (self in self.guarded._slots.idle and not self.is_good()):
            return self.connect_anew()
        return self.dbapi_connection

    def connect_anew(self) -> Any:
        """
        Connect anew, and drop what there was.

        Raises:
            NotNow: nobody may connect now, or the database could not be reached.
        """
        get: Callable[[], Any] = super().get_connection
        return self.guarded._connecting.reconnect(get)

    def is_good(self) -> bool:
        """Tell whether the connection can be used as it is; while nobody may connect, its age does not matter."""
        pool, started = self.guarded, self.starttime
        if (
            self.dbapi_connection is None
            or (pool._invalidate_time and pool._invalidate_time > started)
            or (self._soft_invalidate_time and self._soft_invalidate_time > started)
        ):
            return False
        return pool._recycle < 0 or time.time() - started <= pool._recycle or not pool._slots.breaker.may_begin()

    def lives(self) -> bool:
        """Tell whether the connection can be had again: it is good, or it was given up with others but its holder, and its driver, are well."""
        return self.is_good() or (
            self.is_doubted() and self.lease.granted_at is not None and not getattr(self.driver_connection, "is_closed", bool)()
        )

    def is_doubted(self) -> bool:
        """Tell whether it was given up only because another one was lost, while nobody may connect: then it is asked first."""
        return (
            self.dbapi_connection is not None
            and not self.guarded._slots.breaker.may_begin()
            and self._soft_invalidate_time <= self.starttime < self.guarded._invalidate_time
        )

    def vouch(self) -> None:
        """
        Note that it has answered: while no other can be had, what was lost before is no reason any more to doubt it.

        `pool_recycle` counts from now. Where it is only not its turn to connect, it is replaced the next time.
        """
        if self.guarded._slots.breaker.down_since is not None:
            self.starttime = time.time()

    def abandon(self) -> None:
        """Drop a connection without a goodbye: nothing is awaited, and nothing could be if it belongs to another loop."""
        connection, self.dbapi_connection = self.dbapi_connection, None
        self.guarded.dispatch.close(connection, self)
        if self.loop is not None and self.loop is not _get_running_loop() and self.loop.is_running():
            with contextlib.suppress(RuntimeError):  # it was closed between the two calls
                self.loop.call_soon_threadsafe(cut_off, self.guarded, connection)
                return
        cut_off(self.guarded, connection)


def cut_off(pool: GuardedPool, connection: Any) -> None:
    """
    Terminate a connection without awaiting anything.

    Within SQLAlchemy's greenlets its adapters would await; in a plain one they do not.
    """
    try:
        greenlet.greenlet(pool._dialect.do_terminate).switch(connection)
    except Exception as error:  # noqa: BLE001 - the loop it belongs to is closed; the garbage collector closes the socket
        pool.logger.debug("Connection %r was dropped, not terminated: %r", connection, error)


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


def _connected(connection: object, record: GuardedRecord) -> None:
    record.loop = _get_running_loop()
    record.counted = True
    count_operations(driver_of(connection))
    if record.guarded.guard.slow_statement is not None:
        time_statements(record.guarded)
    introduce(record.guarded, connection)
    if record.guarded.guard.inspect:
        open_inspector()
    # SQLAlchemy notes in `starttime` when it began to connect, on the wall clock; a clock that was set back reads as 0
    record.guarded._watch.opened(max(time.time() - record.starttime, 0.0))


def _closed(_connection: object, record: GuardedRecord) -> None:
    record.write_off()


def _detached(_connection: object, record: GuardedRecord) -> None:
    record.counted = False
    record.guarded._ledger.departed += 1


def _invalidated(_connection: object, record: GuardedRecord, _error: BaseException | None) -> None:
    if record.lease.granted_at is not None:  # else it was found unfit before anybody got it
        record.lease.ending = Ending.INVALIDATED


def _reset(connection: object, record: GuardedRecord | None, state: PoolResetState) -> None:
    """Recognise the garbage collector at work: it may reset nothing, and can only terminate."""
    if state.terminate_only and not state.asyncio_safe and record is not None:
        leaked(record, connection)


def leaked(record: GuardedRecord, connection: object) -> None:
    """Note that the garbage collector has found a connection, in this thread, and is about to terminate it."""
    record.lease.ending = Ending.LEAKED
    if record.guarded._dialect.has_terminate:  # else nobody is going to ask, and it would live on here
        _found.connection = connection


def is_leaked(connection: object) -> bool:
    """Tell whether it is the garbage collector that terminates a connection, as it does right after it has found it."""
    if getattr(_found, "connection", None) is not connection:
        return False
    _found.connection = None
    return True
