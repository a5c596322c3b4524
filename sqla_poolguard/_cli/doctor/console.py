"""Read PgBouncer's console, if it lets us. It speaks the simple protocol only, hence psycopg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._cli.doctor.sights import Console, ConsolePool, Mode
from sqla_poolguard._cli.doctor.trouble import said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["read_console"]

_SECONDS: Final = 2
_DATABASE: Final = "pgbouncer"


def read_console(address: Mapping[str, Any], database: str, secrets: Sequence[str]) -> tuple[Console, Mode] | str:
    """
    Read the console; blocks.

    Args:
        address: host, port, user and password.
        database: that the application uses.
        secrets: what must not be in an error.

    Returns:
        What it says, and the mode of the database's pool; or why it could not be read.
    """
    try:
        import psycopg  # noqa: PLC0415 - an extra
    except ImportError:
        return "psycopg is not installed: pip install 'sqla-poolguard[cli]'"
    given = {name: value for name, value in address.items() if value is not None}
    try:
        with psycopg.connect(
            dbname=_DATABASE, autocommit=True, connect_timeout=_SECONDS, cursor_factory=psycopg.ClientCursor, **given
        ) as console:
            return _read(console, database)
    except (psycopg.Error, OSError, LookupError, ValueError) as error:
        return f"its console said: {said(error, secrets)}"


def _read(console: Any, database: str) -> tuple[Console, Mode]:
    version = _rows(console, "SHOW VERSION")[0]["version"]
    config = {row["key"]: row["value"] for row in _rows(console, "SHOW CONFIG")}
    databases = {row["name"]: row for row in _rows(console, "SHOW DATABASES")}
    pools = [row for row in _rows(console, "SHOW POOLS") if row["database"] != _DATABASE]
    own = databases.get(database, {})
    kept = config.get("max_prepared_statements")
    return Console(
        version=str(version).removeprefix("PgBouncer").strip(),
        max_client_conn=int(config["max_client_conn"]),
        default_pool_size=int(config["default_pool_size"]),
        reserve_pool_size=int(config.get("reserve_pool_size") or 0),
        max_db_connections=int(config.get("max_db_connections") or 0),
        max_prepared_statements=None if kept is None else int(kept),
        ignore_startup_parameters=frozenset(
            name.strip() for name in (config.get("ignore_startup_parameters") or "").split(",") if name.strip()
        ),
        pool_sizes={name: int(row["pool_size"]) for name, row in databases.items() if name != _DATABASE},
        pools=tuple(
            ConsolePool(
                database=row["database"],
                user=row["user"],
                clients=int(row["cl_active"]) + int(row["cl_waiting"]),
                waiting=int(row["cl_waiting"]),
                longest_wait=float(row["maxwait"]),
            )
            for row in pools
        ),
    ), Mode(str(own.get("pool_mode") or config["pool_mode"]))


def _rows(console: Any, command: str) -> list[dict[str, Any]]:
    cursor = console.execute(command)
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
