"""Read PgBouncer's console, if it lets us. It speaks the simple protocol only, hence psycopg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._cli.doctor.libpq import for_libpq
from sqla_poolguard._cli.doctor.sights import Console, ConsoleDatabase, ConsolePool, ConsoleUser, Mode
from sqla_poolguard._cli.doctor.trouble import said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqla_poolguard._cli.doctor.stopwatch import WatchingLoop

__all__ = ["ask_console", "database_of", "read_console"]

_SECONDS: Final = 2
_DATABASE: Final = "pgbouncer"
_NOT_SAID: Final = (None, "")


async def ask_console(loop: WatchingLoop, arguments: Mapping[str, Any], secrets: Sequence[str]) -> tuple[Console, Mode] | str:
    """
    Read the console of what the driver's arguments lead to.

    Returns:
        As `read_console`.
    """
    address = {name: arguments.get(name) for name in ("host", "port", "user", "password")}
    if not all(value is None or isinstance(value, (str, int)) for value in address.values()):
        return "it was not asked: the engine has several hosts, or a function for its password"
    return await loop.aside(read_console, {**address, **for_libpq(arguments)}, database_of(arguments), secrets)


def database_of(arguments: Mapping[str, Any]) -> str:
    """Give the database that the driver's arguments lead to, as PgBouncer calls it."""
    return str(arguments.get("database") or arguments.get("user") or "")


def read_console(address: Mapping[str, Any], database: str, secrets: Sequence[str]) -> tuple[Console, Mode] | str:
    """
    Read the console; blocks.

    Args:
        address: host, port, user and password, and what else psycopg is to know.
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
    except (psycopg.Error, OSError, LookupError, TypeError, ValueError) as error:
        text = said(error, secrets).rpartition(" failed: ")[2]  # libpq says first where to, which is known
        return f"its console said: {' '.join(text.split())}"


def _read(console: Any, database: str) -> tuple[Console, Mode]:
    version = _rows(console, "SHOW VERSION")[0]["version"]
    config = {row["key"]: row["value"] for row in _rows(console, "SHOW CONFIG")}
    databases = {row["name"]: row for row in _rows(console, "SHOW DATABASES") if row["name"] != _DATABASE}
    users = {row["name"]: row for row in _rows(console, "SHOW USERS")}
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
        pool_sizes={name: int(row["pool_size"]) for name, row in databases.items()},
        databases={
            name: ConsoleDatabase(
                server=f"{row['host'] or 'a socket'}:{row['port']}",
                pool_size=int(row["pool_size"]),
                reserve=_reserve(row.get("reserve_pool_size", row.get("reserve_pool")), config) or 0,
                most=int(row["max_connections"]),
                paused=bool(row["paused"]),
            )
            for name, row in databases.items()
        },
        users={name: _user(users.get(name, {}), config) for name in sorted({row["user"] for row in pools})},
        pools=tuple(
            ConsolePool(
                database=row["database"],
                user=row["user"],
                clients=int(row["cl_active"]) + int(row["cl_waiting"]),
                waiting=int(row["cl_waiting"]),
                longest_wait=float(row["maxwait"]) + float(row["maxwait_us"]) / 1e6,
                busy=int(row["sv_active"]),
                free=sum(int(row[name]) for name in ("sv_idle", "sv_used", "sv_tested")),
                logging_in=int(row["sv_login"]),
            )
            for row in pools
        ),
    ), Mode(str(own.get("pool_mode") or config["pool_mode"]))


def _user(row: dict[str, Any], config: dict[str, Any]) -> ConsoleUser:
    size, most = row.get("pool_size"), row.get("max_user_connections", config.get("max_user_connections"))
    return ConsoleUser(
        pool_size=None if size in _NOT_SAID else int(size),
        reserve=_reserve(row.get("reserve_pool_size"), config),
        most=int(most or 0),
    )


def _reserve(size: Any, config: dict[str, Any]) -> int | None:
    """Read the size of a reserve, which is none where nobody is let to it."""
    if size in _NOT_SAID:
        return None
    return int(size) if float(config.get("reserve_pool_timeout") or 0) > 0 else 0


def _rows(console: Any, command: str) -> list[dict[str, Any]]:
    cursor = console.execute(command)
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
