"""A driver that costs nothing but what it is told to: what remains is the pool. It knows no rival and measures nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.util.concurrency import await_only

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["URL", "Connection", "creator", "dialect"]

URL = "postgresql+asyncpg://u:p@h/db"


class Connection:
    """An open connection, as a dialect sees it."""

    def rollback(self) -> None:
        """Do nothing: there is no transaction."""

    def commit(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def terminate(self) -> None:
        """Do nothing."""


def creator(connect: float = 0.0) -> Callable[[], Connection]:
    """Make a function that opens a connection in so many seconds."""

    def at_once() -> Connection:
        return Connection()

    def slowly() -> Connection:
        await_only(asyncio.sleep(connect))
        return Connection()

    return slowly if connect else at_once


class Dialect(PGDialect_asyncpg):
    """What a pool without an engine asks of a dialect."""

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back, as SQLAlchemy's own dialects do."""
        dbapi_connection.rollback()

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Cut off."""
        dbapi_connection.terminate()


def dialect() -> Dialect:
    """Make a dialect for a pool without an engine."""
    return Dialect()
