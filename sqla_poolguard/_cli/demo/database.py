"""Which PostgreSQL the demo runs on: one of its own, or the reader's."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy.exc
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard._cli.demo.settings import LIMIT
from sqla_poolguard._cli.demo.trouble import DemoError
from sqla_poolguard._cli.embedded import EmbeddedPostgres, EmbeddedPostgresError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

__all__ = ["Database", "find_database"]

_SCHEMES: Final = frozenset({"postgresql", "postgres", "postgresql+asyncpg"})
_TIMEOUT: Final = 5
_NEEDED: Final = LIMIT + 1
_WANTED: Final = "--dsn wants an address such as postgresql://user:password@host:5432/database"
_LOOK: Final = text(
    """
    WITH backends AS (SELECT usesysid, datid FROM pg_stat_activity WHERE backend_type = 'client backend')
    SELECT current_setting('server_version'), least(  -- which passes over limits that are NULL: not set
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0) - (SELECT count(*) FROM backends),
        (SELECT CASE WHEN NOT rolsuper THEN nullif(rolconnlimit, -1) END - (SELECT count(*) FROM backends WHERE usesysid = role.oid)
            FROM pg_roles AS role WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) - (SELECT count(*) FROM backends WHERE datid = base.oid)
            FROM pg_database AS base WHERE datname = current_database())
    )::int
    """
)


@dataclass(frozen=True, slots=True)
class Database:
    """A server that answers."""

    url: str
    """For SQLAlchemy, password included."""
    shown: str
    """For people."""
    version: str
    """Such as "18.6"."""


@contextmanager
def find_database(dsn: str | None) -> Iterator[Database]:
    """
    Give the reader's server, or start one that lives as long as the block.

    Raises:
        DemoError: there is none; the message is for the reader.
    """
    if dsn is not None:
        url = _read(dsn)
        yield Database(url.render_as_string(hide_password=False), _shown(url), asyncio.run(_look(url)))
        return
    postgres = EmbeddedPostgres(max_connections=2 * LIMIT + 10)
    try:
        postgres.__enter__()
    except EmbeddedPostgresError as error:
        raise DemoError(str(error)) from error
    try:
        yield Database(postgres.url(), f"its own, on port {postgres.port}", postgres.version)
    finally:
        postgres.__exit__(None, None, None)


def _read(dsn: str) -> URL:
    try:
        url = make_url(dsn)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        msg = f"{_WANTED}; what it got is no such address."
        raise DemoError(msg) from None
    if url.drivername not in _SCHEMES:
        msg = f"{_WANTED}; what it got begins with {url.drivername!r}."
        raise DemoError(msg)
    query = dict(url.query)
    if "sslmode" in query:  # libpq's word; asyncpg has its own
        query["ssl"] = query.pop("sslmode")
    query = {
        name: value for name, value in query.items() if name != "plugin" and not name.startswith("poolguard_")
    }  # it has its own
    return url.set(drivername="postgresql+asyncpg", query=query)


def _shown(url: URL) -> str:
    """Tell where a server is, without whatever is left of a user or password."""
    hosts = url.query.get("host", ())
    elsewhere = hosts if isinstance(hosts, str) else ",".join(hosts)
    where = elsewhere or f"{url.host or 'localhost'}:{url.port or 5432}"
    return f"{where.rpartition('@')[2]}/{url.database or url.username or ''}"


async def _look(url: URL) -> str:
    """Connect once; give the server's version."""
    try:
        engine = create_async_engine(url, poolclass=NullPool, connect_args={"timeout": _TIMEOUT})
        async with engine.connect() as connection:
            version, free = (await connection.execute(_LOOK)).one()
    except TimeoutError:
        msg = f"PostgreSQL at {_shown(url)} did not answer within {_TIMEOUT} s: is the address right, and nothing in between?"
        raise DemoError(msg) from None
    except Exception as error:  # the driver and the URL's options may raise anything
        msg = (
            f"cannot use PostgreSQL at {_shown(url)}: {_reason(error)}. Correct --dsn, or leave it out to have a server started."
        )
        raise DemoError(msg) from error
    if free < _NEEDED:
        msg = f"PostgreSQL at {_shown(url)} has room for {free} more connections and the demo needs {_NEEDED}: close some, or leave --dsn out."
        raise DemoError(msg)
    return str(version).split(" ", 1)[0]


def _reason(error: BaseException) -> str:
    """Say in one line what the server, the driver or the system said."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
