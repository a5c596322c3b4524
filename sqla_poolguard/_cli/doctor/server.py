"""Ask a PostgreSQL about its limits, its time limits and its sessions. It asks what any role may ask, and notes what it was not told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import asyncpg

from sqla_poolguard._budget import LIMITS_SQL, ServerLimits
from sqla_poolguard._cli.doctor.connecting import ask
from sqla_poolguard._cli.doctor.sights import Activity, IdleInTransaction, Server

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TIMEOUTS", "look_at"]

TIMEOUTS: Final = (
    "idle_in_transaction_session_timeout",
    "statement_timeout",
    "transaction_timeout",
    "lock_timeout",
    "client_connection_check_interval",
)
"""Settings of PostgreSQL that bound how long a session may keep what it has; `transaction_timeout` since 17, the last since 14."""
_TIMEOUTS_SQL: Final = """
SELECT name, setting::float8 / 1000 AS seconds FROM pg_catalog.pg_settings WHERE name = ANY (string_to_array($1::text, ','))
"""
# the kind of other roles' sessions is hidden like their state; the server's own have no role or no database
_ACTIVITY_SQL: Final = """
SELECT coalesce(application_name, '') AS application, state, usename = session_user AS own_role, count(*)::int AS count,
       (count(*) FILTER (WHERE datname = current_database()))::int AS in_database
  FROM pg_catalog.pg_stat_activity
 WHERE pid <> pg_backend_pid() AND usesysid IS NOT NULL AND datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2
"""
_IDLE_SQL: Final = """
SELECT pid, coalesce(application_name, '') AS application, extract(epoch FROM clock_timestamp() - state_change)::float8 AS seconds
  FROM pg_catalog.pg_stat_activity
 WHERE pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'
   AND clock_timestamp() - state_change > make_interval(secs => $1::float8)
 ORDER BY 3 DESC LIMIT 20
"""


async def look_at(opened: asyncpg.Connection[Any], idle_seconds: float, miss: Callable[[str], None]) -> Server:
    """
    Look at the server.

    Args:
        opened: a connection, in a transaction.
        idle_seconds: from which a session idle in transaction is noted.
        miss: is told what could not be seen.
    """
    version, role = (await ask(opened, "SELECT current_setting('server_version'), session_user::text"))[0]
    return Server(
        version=str(version).partition(" ")[0],
        role=role,
        limits=await _limits(opened, miss),
        timeouts=await _timeouts(opened),
        activity=await _activity(opened, miss),
        idle_in_transaction=tuple([IdleInTransaction(**row) for row in await ask(opened, _IDLE_SQL, idle_seconds)]),
    )


async def _limits(opened: asyncpg.Connection[Any], miss: Callable[[str], None]) -> ServerLimits | None:
    try:
        async with opened.transaction():  # a savepoint: what fails in it spoils nothing
            rows = await ask(opened, LIMITS_SQL)
        return ServerLimits.of(rows[0])
    except (asyncpg.PostgresError, ValueError, LookupError) as error:
        miss(f"the limits of the server ({type(error).__name__})")
        return None


async def _timeouts(opened: asyncpg.Connection[Any]) -> dict[str, float | None]:
    found = {row["name"]: float(row["seconds"]) for row in await ask(opened, _TIMEOUTS_SQL, ",".join(TIMEOUTS))}
    return {name: found.get(name) for name in TIMEOUTS}


async def _activity(opened: asyncpg.Connection[Any], miss: Callable[[str], None]) -> tuple[Activity, ...]:
    groups = tuple([Activity(**row) for row in await ask(opened, _ACTIVITY_SQL)])
    hidden = sum(group.count for group in groups if group.state is None)
    if hidden:
        miss(
            f"what {hidden} session{'' if hidden == 1 else 's'} of other roles {'is' if hidden == 1 else 'are'} doing: that needs GRANT pg_read_all_stats"
        )
    return groups
