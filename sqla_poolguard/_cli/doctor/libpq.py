"""What libpq's parameters in an address (`?sslrootcert=…&application_name=…`) are to asyncpg, and what asyncpg's arguments are to psycopg."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["KNOWN", "Parameters", "for_libpq", "secrets_in", "translated"]

_DSN: Final = "postgresql://?"
_BY_ASYNCPG: Final = frozenset(
    {
        "passfile",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "target_session_attrs",
    }
)
"""Those that asyncpg reads itself, but in an address of its own only: not as arguments, and so not from SQLAlchemy."""
_RENAMED: Final = {"dbname": "database", "sslmode": "ssl", "user": "user", "password": "password"}
_SETTINGS: Final = frozenset({"application_name", "options"})
"""Those that go to the server as they are when a session starts."""
_OF_SQLALCHEMY: Final = frozenset({"host", "port", "prepared_statement_cache_size", "prepared_statement_name_func"})
_OF_ASYNCPG: Final = frozenset(
    {"command_timeout", "direct_tls", "gsslib", "krbsrvname", "max_cached_statement_lifetime"}
) | frozenset({"max_cacheable_statement_size", "service", "servicefile", "ssl", "statement_cache_size", "timeout"})
_LEFT_OUT: Final = frozenset(
    {"channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssdelegation", "gssencmode"}
) | frozenset(
    {"keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts", "require_auth", "sslsni"}
    | {"sslcompression", "tcp_user_timeout"}
)
"""Those that say how libpq connects: the doctor has time limits of its own, and asyncpg has no such parameters."""

KNOWN: Final = sorted(_BY_ASYNCPG | set(_RENAMED) | _SETTINGS | _LEFT_OUT | {"host", "port"})
"""Of libpq."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """An address's parameters, sorted."""

    query: Mapping[str, str | Sequence[str]]
    """What SQLAlchemy hands on as it is."""
    arguments: Mapping[str, Any]
    """Further arguments of asyncpg's."""
    left_out: tuple[str, ...]
    """Names of what was left out."""
    unknown: tuple[str, ...]
    """Names of what neither libpq nor asyncpg has."""


def translated(query: Mapping[str, str | Sequence[str]]) -> Parameters:
    """Translate parameters, or psycopg's arguments, into what asyncpg takes."""
    kept: dict[str, str | Sequence[str]] = {}
    own: dict[str, str] = {}
    settings: dict[str, str] = {}
    left_out, unknown = [], []
    for name, given in query.items():
        value = given if isinstance(given, str) else given[-1]  # libpq takes the last one, too
        if name in _BY_ASYNCPG:
            own[name] = value
        elif name in _RENAMED:
            kept[_RENAMED[name]] = value
        elif name in _SETTINGS:
            settings[name] = value
        elif name in _LEFT_OUT:
            left_out.append(name)
        elif name in _OF_SQLALCHEMY | _OF_ASYNCPG:
            kept[name] = given
        else:
            unknown.append(name)
    arguments: dict[str, Any] = {}
    if own:
        arguments["dsn"] = _DSN + urlencode(own)
    if settings:
        arguments["server_settings"] = settings
    return Parameters(query=kept, arguments=arguments, left_out=tuple(left_out), unknown=tuple(unknown))


def secrets_in(arguments: Mapping[str, Any]) -> list[str]:
    """Give what of asyncpg's arguments must not be shown."""
    dsn = arguments.get("dsn")
    hidden = [value for name, value in parse_qsl(urlsplit(dsn).query) if name == "sslpassword"] if isinstance(dsn, str) else []
    password = arguments.get("password")
    return [*hidden, password] if isinstance(password, str) else hidden


def for_libpq(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Give what psycopg is to know of asyncpg's arguments, so that it trusts nobody whom asyncpg does not trust."""
    given = {}
    if isinstance(dsn := arguments.get("dsn"), str):
        given = {name: value for name, value in parse_qsl(urlsplit(dsn).query) if name.startswith("ssl") or name == "passfile"}
    if isinstance(mode := arguments.get("ssl"), str):
        given["sslmode"] = mode
    return given
