"""Read from an engine how it is set up, without connecting. The one room that knows where SQLAlchemy keeps it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import NullPool, QueuePool

from sqla_poolguard import GuardedPool
from sqla_poolguard._cli.doctor.evidence import Naming, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Engine

__all__ = ["address_of", "connect_arguments", "read"]

_OF_SQLALCHEMY: Final = ("prepared_statement_cache_size", "prepared_statement_name_func", "async_creator_fn", "async_fallback")
_CACHE: Final = 100


def connect_arguments(engine: Engine) -> dict[str, Any] | None:
    """
    Give the arguments with which an engine calls its driver.

    Returns:
        None where that cannot be seen: the engine has a creator of its own.
    """
    creator = engine.pool._creator
    if "cparams" in getattr(getattr(creator, "__code__", None), "co_freevars", ()):
        return dict(inspect.getclosurevars(creator).nonlocals["cparams"])
    return None


def driver_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what SQLAlchemy keeps for itself."""
    return {name: value for name, value in arguments.items() if name not in _OF_SQLALCHEMY}


def address_of(engine: Engine, arguments: Mapping[str, Any] | None) -> str:
    """Give host:port/database."""
    url = engine.url
    given = arguments or {}
    host = given.get("host") or url.host or url.query.get("host") or "localhost"
    port = given.get("port") or url.port or 5432
    hosts = [host] if isinstance(host, str) else list(host)
    where = ",".join(one.rpartition("@")[2] if ":" in one else f"{one}:{port}" for one in hosts)
    return f"{where}/{given.get('database') or url.database or url.username or ''}"


def read(engine: Engine, source: str, *, assumed: bool = False) -> Settings:
    """Read an engine's settings."""
    pool: Any = engine.pool
    arguments = connect_arguments(engine)
    known = arguments is not None and arguments.get("async_creator_fn") is None
    given = arguments or {}
    guarded = isinstance(pool, GuardedPool)
    bounded = guarded or isinstance(pool, QueuePool)
    server_settings = {str(name): str(value) for name, value in (given.get("server_settings") or {}).items()}
    sizes: dict[str, Any] = {}
    if bounded:
        sizes = {
            "pool_size": pool.size() if guarded else pool._pool.maxsize,
            "max_overflow": pool._slots.max_overflow if guarded else pool._max_overflow,
            "pool_timeout": pool._timeout,
            "open_connections": pool.checkedin() + pool.checkedout(),
        }
    if guarded:
        guard = pool.guard
        sizes["ping_after"] = guard.ping_after
        if guard.fail_fast is True:
            sizes["max_wait"] = guard.max_wait if guard.max_wait is not None else min(pool._timeout or 1.0, 1.0)
    return Settings(
        source=source,
        address=address_of(engine, arguments),
        driver=engine.dialect.driver,
        asynchronous=bool(engine.dialect.is_async),
        pool=type(pool).__name__,
        bounded=bounded,
        null=isinstance(pool, NullPool),
        guarded=guarded,
        assumed=assumed,
        pool_recycle=pool._recycle,
        pre_ping=bool(pool._pre_ping),
        arguments_known=known,
        statement_cache_size=_number(given.get("statement_cache_size"), _CACHE),
        prepared_cache_size=_number(given.get("prepared_statement_cache_size"), _CACHE),
        naming=_naming(given.get("prepared_statement_name_func")),
        server_settings=server_settings,
        command_timeout=_seconds(given.get("command_timeout")),
        application_name=server_settings.get("application_name") or given.get("application_name"),
        **sizes,
    )


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _naming(function: Any) -> Naming:
    """Ask the function twice: names it makes are made of nothing but the next number or chance."""
    if function is None:
        return Naming.COUNTED
    try:
        return Naming.EMPTY if [function(), function()] == ["", ""] else Naming.OWN
    except Exception:  # noqa: BLE001 - the application's own
        return Naming.OWN
