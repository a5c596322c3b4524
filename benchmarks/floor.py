"""
Two floors: poolclasses without any pool logic.

What the first costs is SQLAlchemy's own, and no pool behind its doors can cost less; the second has a door of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool
from sqlalchemy.pool.base import _ConnectionFairy

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["BarePool", "FloorPool"]


class FloorPool(AsyncAdaptedQueuePool):
    """
    Hands out connections from a list and puts them back. It counts, limits and waits for nothing.

    SQLAlchemy's own proxy around the connection is part of it.
    """

    def __init__(
        self,
        creator: Callable[..., Any],
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float = 30.0,
        **kw: Any,
    ) -> None:
        Pool.__init__(self, creator, **kw)
        self._shape = (pool_size, max_overflow, timeout)
        self._idle: list[ConnectionPoolEntry] = []

    def _do_get(self) -> ConnectionPoolEntry:
        return self._idle.pop() if self._idle else self._create_connection()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self._idle.append(record)

    def status(self) -> str:
        """Describe the pool."""
        return f"{len(self._idle)} idle"

    def dispose(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def recreate(self) -> FloorPool:
        """Make another."""
        size, overflow, timeout = self._shape
        return type(self)(self._creator, size, overflow, timeout, dialect=self._dialect)


class _BareProxy(_ConnectionFairy):
    """A proxy that rolls back and comes back, and looks at nothing."""

    __slots__ = ()

    def __init__(self, pool: Any, record: Any) -> None:
        self._pool = pool
        self._counter = 1
        self._connection_record = record
        self._echo = False
        self.dbapi_connection = record.dbapi_connection

    def close(self) -> None:
        """Come back."""
        self._checkin()

    def rollback(self) -> None:
        """Roll back."""
        self.dbapi_connection.rollback()

    def _checkin(self, transaction_was_reset: bool = False) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's signature
        if not transaction_was_reset:
            self.rollback()
        self._pool._idle.append(self._connection_record)


class BarePool(FloorPool):
    """Hands them out without SQLAlchemy's proxy: whoever drops one without closing it has lost it, and nobody is told anything."""

    def connect(self) -> Any:
        """Check out a connection."""
        return _BareProxy(self, self._do_get())
