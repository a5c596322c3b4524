"""The monitor's own connection to a server: opened beside the pool, never checked out of it, and used to ask two questions."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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


class _Line(NamedTuple):
    """A connection, and what was asked once of its server."""

    connection: Any
    limits: ServerLimits
    pooled: bool


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
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None
        """
        A connect that is under way, in a task of its own: whoever waits for it can be cancelled without cutting it off.

        asyncpg leaves a future behind whose exception nobody retrieves, which asyncio logs, where a connect is cancelled between the
        opening of the socket and the answer about TLS. So one that nobody wants any more has a moment to end by itself.
        """

    async def ask(self) -> Activity:
        """
        Ask what every session does.

        Raises:
            Exception: whatever the driver raises; the connection is dropped then.
        """
        if self._line is None:
            await self._open()
        try:
            async with asyncio.timeout(self._timeout):
                return await greenlet_spawn(self._read)
        except BaseException:
            self.drop()
            raise

    async def close(self) -> None:
        """Say goodbye, in a moment or not at all."""
        try:
            await self._end_connecting()
            if self._line is not None:
                with suppress(Exception):  # then it is cut off
                    async with asyncio.timeout(POLITE):
                        await greenlet_spawn(self._line.connection.close)
                        self._line = None
        finally:
            self.drop()

    def drop(self) -> None:
        """Cut the connection off, also one that is only being opened; it awaits nothing."""
        line, self._line = self._line, None
        if line is not None:
            cut_off(self._pool(), line.connection)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.add_done_callback(self._refuse)
            connecting.cancel()

    async def _open(self) -> None:
        """Connect; whoever is cancelled meanwhile leaves it to `close`."""
        self._connecting = connecting = asyncio.create_task(greenlet_spawn(self._connect), name="poolguard monitor connects")
        await asyncio.wait([connecting], timeout=self._timeout)
        if connecting.done():
            self._connecting = None
            self._line = connecting.result()
            return
        await self._end_connecting()
        if self._line is None:  # else it came after all: the event loop may have stood still meanwhile
            self.drop()
            raise TimeoutError

    async def _end_connecting(self) -> None:
        """Let a connect that nobody wants any more come to its end; one that takes more than a moment is cancelled."""
        connecting = self._connecting
        if connecting is None:
            return
        await asyncio.wait([connecting], timeout=POLITE)
        connecting.cancel()
        await asyncio.wait([connecting], timeout=POLITE)
        if connecting.done():
            self._connecting = None
            if not connecting.cancelled() and connecting.exception() is None:
                self._line = connecting.result()

    def _refuse(self, connecting: asyncio.Task[_Line]) -> None:
        """Cut off what a connect brings that nobody waits for."""
        if not connecting.cancelled() and connecting.exception() is None:
            cut_off(self._pool(), connecting.result().connection)

    def _connect(self) -> _Line:
        pool: Any = self._pool()
        connection = pool._invoke_creator(None)
        try:
            pool._dialect.set_isolation_level(connection, "AUTOCOMMIT")
            (row,) = _rows(connection, LIMITS_SQL)
            (own,) = _rows(connection, "SELECT pg_catalog.pg_backend_pid() AS pid")
            pooled = own["pid"] != server_pid(driver_of(connection))
            if not pooled:  # what we give up the server gives up too; a pooler would give this session to others
                _execute(connection, f"SET statement_timeout = {math.ceil(self._timeout * 1000)}")
            return _Line(connection, ServerLimits.of(row), pooled)
        except BaseException:
            cut_off(pool, connection)
            raise

    def _read(self) -> Activity:
        if self._line is None:
            msg = "bug: asked before it was connected"
            raise AssertionError(msg)
        rows, limits = _rows(self._line.connection, ACTIVITY_SQL), self._line.limits
        # of every limit, who has connections by now: the one that leaves the least is not always the smallest
        taken = Others(
            server=len(rows),
            role=sum(bool(row["same_role"]) for row in rows),
            database=sum(bool(row["same_database"]) for row in rows),
        )
        left = limits.left(taken)
        return Activity(
            {row["pid"]: _session(row) for row in rows}, self._line.pooled, limits.allowed(left.bound), left.slots, left.bound
        )


def _rows(connection: Any, statement: str) -> list[dict[str, Any]]:
    """Ask for rows, by name of column."""
    names, rows = _execute(connection, statement)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _execute(connection: Any, statement: str) -> tuple[list[str], Sequence[Any]]:
    """Ask, in one of SQLAlchemy's greenlets, in the way in which the application's statements go: what works for them works here."""
    cursor = connection.cursor()
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
