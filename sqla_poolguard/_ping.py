"""Ask a connection whether it is still there, in as few round trips as its driver allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.util import concurrency

from sqla_poolguard._otel._unseen import unseen

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._record import GuardedRecord

__all__ = ["ping"]

_await: Final[Callable[[Any], Any]] = getattr(concurrency, "await_", concurrency.await_only)


def ping(record: GuardedRecord) -> None:
    """
    Ask, inside one of SQLAlchemy's greenlets. No instrumentation of OpenTelemetry's draws it.

    On asyncpg it is one round trip, where SQLAlchemy's own ping is three (BEGIN, an empty statement, ROLLBACK);
    every other driver gets SQLAlchemy's ping.

    Raises:
        Exception: whatever the driver raises when the connection is gone.
    """
    dialect: Any = record.guarded._dialect
    driver: Any = record.driver_connection
    with unseen():
        if getattr(dialect, "driver", None) == "asyncpg" and hasattr(driver, "execute"):
            _await(driver.execute("SELECT 1"))  # an empty statement makes asyncpg stumble over its empty answer
        elif not dialect.do_ping(record.dbapi_connection):
            msg = "the ping was answered with no"
            raise ConnectionError(msg)
