"""Ask a server for its limits, on one short connection."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from sqla_poolguard._budget import LIMITS_SQL, Others, ServerLimits
from sqla_poolguard._cli.size.measured import Measured
from sqla_poolguard._cli.size.quantities import plural
from sqla_poolguard._cli.size.trouble import SizeError

__all__ = ["ask_server"]

_SECONDS: Final = 5.0
_OTHERS: Final = """
SELECT (count(*) FILTER (WHERE NOT (own_role AND here)))::int AS others,
       (count(*) FILTER (WHERE own_role AND NOT here))::int AS others_of_role,
       (count(*) FILTER (WHERE here AND NOT own_role))::int AS others_in_database
  FROM (SELECT usename = session_user AS own_role, datname = current_database() AS here FROM pg_catalog.pg_stat_activity
         WHERE usename IS NOT NULL AND datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend') AS seen
"""
"""Whoever has another role, or is in another database, is not the service that is sized; each limit counts its own of them."""
_OPTIONS: Final = {
    "user",
    "password",
    "dbname",
    "database",
    "service",
    "host",
    "hostaddr",
    "port",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "target_session_attrs",
}
"""Of libpq's, those that lead to the server, and say who asks."""
_SSL: Final = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
_POOLED: Final = "SELECT pg_backend_pid() AS pid"


def ask_server(dsn: str) -> Measured:
    """
    Read the limits of the role and the database of a URL, and how many connections others have.

    Raises:
        SizeError: it could not be asked.
    """
    conninfo = _conninfo(dsn)
    try:
        row = asyncio.run(asyncio.wait_for(_ask(conninfo), _SECONDS))
    except TimeoutError as error:
        msg = f"the server did not answer in {_SECONDS:g} s; give its limits instead, with --max-connections"
        raise SizeError(msg) from error
    except psycopg.Error as error:
        msg = f"the server could not be asked: {_tells_most(str(error)) or type(error).__name__}; or give its limits with --max-connections"
        raise SizeError(msg) from error
    limits = ServerLimits.of(row)
    others = Others(server=row["others"], role=row["others_of_role"], database=row["others_in_database"])
    note = f"PostgreSQL {limits.version // 10000}, role {row['role']!r}; {plural(others.server, 'connection')} of others now"
    note += f", {others.role} of them of this role" if others.role else ""
    pooled = ("there is a pooler between: these are the limits of the server behind it",) if row["pooled"] else ()
    rank = ("this role is a superuser, to whom no limit applies: ask with the application's role",) if limits.is_superuser else ()
    return Measured(source=f"server {row['place']}", limits=limits, others=others, notes=(note, *pooled, *rank))


def _tells_most(text: str) -> str:
    """Choose of libpq's lines, one for each address and hints between them, the one that says what happened."""
    lines = [line.strip() for line in text.splitlines()]
    for word in ("FATAL:", "failed: "):
        lines = [line for line in lines if word in line] or lines
    return lines[0] if lines else ""


def _conninfo(dsn: str) -> str:
    """Make what libpq reads of a URL as SQLAlchemy reads it: with a driver, and with options that only that one knows."""
    try:
        url = make_url(dsn)
    except (ArgumentError, ValueError):
        msg = (
            "the URL cannot be read; allowed: postgresql://role:password@host:port/database"  # it is not shown: it has a password
        )
        raise SizeError(msg) from None
    twice = [name for name, value in url.query.items() if name in _OPTIONS and not isinstance(value, str)]
    if twice:
        msg = f"the URL has {', '.join(twice)} more than once; allowed: once"
        raise SizeError(msg)
    options = {name: str(value) for name, value in url.query.items() if name in _OPTIONS}
    if "database" in options:  # asyncpg's name for it
        options["dbname"] = options.pop("database")
    if url.query.get("ssl") in _SSL:  # asyncpg's name for it
        options["sslmode"] = str(url.query["ssl"])
    parts = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    return make_conninfo("", **{**{name: value for name, value in parts.items() if value}, **options})


async def _ask(dsn: str) -> dict[str, Any]:
    # no prepared statements: there may be a pooler between
    connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, prepare_threshold=None, row_factory=dict_row, application_name="poolguard size"
    )
    async with connection:
        found: dict[str, Any] = {}
        for statement in (LIMITS_SQL, _OTHERS, _POOLED, "SELECT session_user::text AS role"):
            row = await (await connection.execute(statement)).fetchone()
            if row is None:  # LIMITS_SQL: a role or a database that is in no catalogue
                msg = "it does not tell the limits of this role"
                raise psycopg.DataError(msg)
            found |= row
        info = connection.info
        return found | {"pooled": found["pid"] != info.backend_pid, "place": f"{info.host}:{info.port}/{info.dbname}"}
