"""The monitor's own connection to a server: opened beside the pool, never checked out of it, and used to ask two questions."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.util.concurrency import greenlet_spawn

from sqla_poolguard._budget import LIMITS_SQL, Others, ServerLimits
from sqla_poolguard._monitor.facts import Session
from sqla_poolguard._probe import driver_of, server_pid
from sqla_poolguard._record import POLITE, cut_off

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqla_poolguard._budget import Bound
    from sqla_poolguard._pool import GuardedPool

__all__ = ["Activity", "Server"]

ACTIVITY_SQL: Final = """
SELECT seen.pid AS pid,
       seen.state AS state,
       extract(epoch FROM clock_timestamp() - seen.state_change)::float8 AS state_age,
       extract(epoch FROM clock_timestamp() - seen.xact_start)::float8 AS transaction_age,
       CASE WHEN seen.state = 'active' THEN seen.wait_event_type || ': ' || seen.wait_event END AS waits_for,
       coalesce(held.locks, 0)::int AS locks,
       CASE WHEN held.waits THEN array_to_string(pg_catalog.pg_blocking_pids(seen.pid), ' ') ELSE '' END AS blocked_by,
       seen.application_name AS application,
       seen.usename = session_user AS same_role,
       seen.datname = current_database() AS same_database
  FROM pg_catalog.pg_stat_activity AS seen
  LEFT JOIN (SELECT pid, count(*) FILTER (WHERE granted AND locktype <> 'virtualxid') AS locks, bool_or(NOT granted) AS waits
               FROM pg_catalog.pg_locks GROUP BY pid) AS held ON held.pid = seen.pid
 WHERE seen.datid IS NOT NULL AND seen.usesysid IS NOT NULL AND coalesce(seen.backend_type, 'client backend') = 'client backend'
"""
"""Every session of a client. Of another role's, one without `pg_read_all_stats` sees neither state nor kind, but that it is there."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What the server told at one moment."""

    sessions: Mapping[int, Session]
    """By process."""
    pooled: bool
    """Whether a pooler stands in between: the processes that drivers know are not the server's."""
    slots: int
    """Connections that the limit allows which leaves the least, with everybody's that it counts."""
    free: int
    """Of them, those that are left."""
    bound: Bound
    """Which limit that is."""


class Server:
    """One server, through one connection, which is opened when it is first asked, and anew when it was lost."""

    def __init__(self, pool: Callable[[], GuardedPool], timeout: float) -> None:
        """
        Prepare to ask.

        Args:
            pool: gives the pool whose way to connect is used.
            timeout: seconds for a connect, and for an answer.
        """
        self._pool, self._timeout = pool, timeout
        self._connection: Any = None
        self._limits: ServerLimits | None = None
        self._pooled = True

    async def ask(self) -> Activity:
        """
        Ask what every session does.

        Raises:
            Exception: whatever the driver raises; the connection is dropped then.
        """
        try:
            if self._connection is None:
                async with asyncio.timeout(self._timeout):
                    await greenlet_spawn(self._connect)
            async with asyncio.timeout(self._timeout):
                return await greenlet_spawn(self._read)
        except BaseException:
            self.drop()
            raise

    async def close(self) -> None:
        """Say goodbye, in a moment or not at all."""
        try:
            if self._connection is not None:
                with suppress(Exception):  # then it is cut off
                    async with asyncio.timeout(POLITE):
                        await greenlet_spawn(self._connection.close)
                        self._connection = None
        finally:
            self.drop()

    def drop(self) -> None:
        """Cut the connection off; it awaits nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            cut_off(self._pool(), connection)

    def _connect(self) -> None:
        pool: Any = self._pool()
        self._connection = connection = pool._invoke_creator(None)
        pool._dialect.set_isolation_level(connection, "AUTOCOMMIT")
        (row,) = self._rows(LIMITS_SQL)
        self._limits = ServerLimits.of(row)
        (own,) = self._rows("SELECT pg_catalog.pg_backend_pid() AS pid")
        self._pooled = own["pid"] != server_pid(driver_of(connection))
        if not self._pooled:  # what we give up the server gives up too; a pooler would give this session to others
            self._execute(f"SET statement_timeout = {math.ceil(self._timeout * 1000)}")

    def _read(self) -> Activity:
        rows, limits = self._rows(ACTIVITY_SQL), self._limits
        if limits is None:
            msg = "bug: asked before it was connected"
            raise AssertionError(msg)
        # of every limit, who has connections by now: the one that leaves the least is not always the smallest
        taken = Others(
            server=len(rows),
            role=sum(bool(row["same_role"]) for row in rows),
            database=sum(bool(row["same_database"]) for row in rows),
        )
        left = limits.left(taken)
        return Activity(
            {row["pid"]: _session(row) for row in rows}, self._pooled, limits.allowed(left.bound), left.slots, left.bound
        )

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        """Ask for rows, by name of column."""
        names, rows = self._execute(statement)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _execute(self, statement: str) -> tuple[list[str], Sequence[Any]]:
        """Ask, in one of SQLAlchemy's greenlets, in the way in which the application's statements go: what works for them works here."""
        cursor = self._connection.cursor()
        try:
            cursor.execute(statement)
            names = [column[0] for column in cursor.description or ()]
            return names, cursor.fetchall() if names else ()
        finally:
            with suppress(Exception):
                cursor.close()


def _session(row: Mapping[str, Any]) -> Session:
    return Session(
        pid=row["pid"],
        state=row["state"],
        state_age=row["state_age"],
        transaction_age=row["transaction_age"],
        waits_for=row["waits_for"],
        locks=row["locks"],
        blocked_by=tuple(sorted({int(pid) for pid in row["blocked_by"].split()} - {0})),  # 0: a prepared transaction
        application=row["application"] or None,
        ours=bool(row["same_role"] and row["same_database"]),
    )
