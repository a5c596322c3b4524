"""Is an error of connecting an outage, and of which kind? It looks at SQLSTATE, type and text, and imports no driver."""

from __future__ import annotations

import copy
import enum
import errno
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Outage", "classify", "keepsake"]


class Outage(enum.StrEnum):
    """Why a connect failed."""

    REFUSED = "refused"
    """Nobody is there, or nobody answers."""
    FULL = "full"
    """The server, a role's limit, the pooler or this process has no room for one more connection."""
    STARTING = "starting"
    """The server starts up or recovers."""
    SHUTTING_DOWN = "shutting_down"
    """The server shuts down."""
    MISCONFIGURED = "misconfigured"
    """It will not let us in: password, database, privilege, certificate, option."""
    NONE = "none"
    """It is no outage: a listener's own exception, a mistake in the program, a cancellation."""

    @property
    def counts(self) -> bool:
        """Whether it opens the breaker."""
        return self is not Outage.NONE

    @property
    def unchanged(self) -> bool:
        """Whether requests get the error itself, not `DatabaseUnavailable`: a person has to mend something."""
        return self in {Outage.MISCONFIGURED, Outage.NONE}


_BY_SQLSTATE: Final = {
    "08": Outage.REFUSED,  # connection exceptions, 08003 among them: closed while it began
    "0A000": Outage.MISCONFIGURED,  # the server does not speak our protocol
    "22023": Outage.MISCONFIGURED,  # a server setting with a value that is not allowed
    "28": Outage.MISCONFIGURED,  # pg_hba.conf, role, password
    "3D": Outage.MISCONFIGURED,  # no such database
    "42501": Outage.MISCONFIGURED,  # no privilege to connect
    "42704": Outage.MISCONFIGURED,  # a server setting that does not exist
    "53": Outage.FULL,  # connections, memory, disk
    "55000": Outage.MISCONFIGURED,  # the database does not accept connections
    "57P01": Outage.SHUTTING_DOWN,
    "57P02": Outage.SHUTTING_DOWN,
    "57P03": Outage.STARTING,
    "57P04": Outage.MISCONFIGURED,  # the database was dropped
    "58": Outage.REFUSED,  # the server's own disk or system
    "XX": Outage.REFUSED,  # the server's, or a pooler's, internal error
}
"""By code or class (PostgreSQL, appendix A). What is not here is no outage, such as a listener's own bad SQL."""

_VAGUE: Final = {"08P01", "57P03", "XX000"}
"""Codes under which poolers, or a server that shuts down, say different things: their text tells which."""

_BY_TEXT: Final = (
    ("too many clients", Outage.FULL),
    ("too many connections", Outage.FULL),
    ("remaining connection slots", Outage.FULL),
    ("no more connections allowed", Outage.FULL),  # PgBouncer: max_client_conn
    ("max client connections reached", Outage.FULL),  # Supavisor
    ("shutting down", Outage.SHUTTING_DOWN),
    ("due to administrator command", Outage.SHUTTING_DOWN),
    ("starting up", Outage.STARTING),
    ("not yet accepting connections", Outage.STARTING),
    ("in recovery mode", Outage.STARTING),
    ("authentication failed", Outage.MISCONFIGURED),
    ("no password supplied", Outage.MISCONFIGURED),
    ("no pg_hba.conf entry", Outage.MISCONFIGURED),
    ("not permitted to log in", Outage.MISCONFIGURED),
    ("permission denied", Outage.MISCONFIGURED),
    ("no such database", Outage.MISCONFIGURED),  # PgBouncer
    ("no such user", Outage.MISCONFIGURED),  # PgBouncer
    ('" does not exist', Outage.MISCONFIGURED),
    ("not currently accepting connections", Outage.MISCONFIGURED),
    ("startup parameter", Outage.MISCONFIGURED),  # PgBouncer: unsupported
    ("configuration parameter", Outage.MISCONFIGURED),
    ("invalid value for parameter", Outage.MISCONFIGURED),
    ("invalid connection option", Outage.MISCONFIGURED),
    ("sslmode", Outage.MISCONFIGURED),
    ("does not support ssl", Outage.MISCONFIGURED),
    ("rejected ssl upgrade", Outage.MISCONFIGURED),
    ("certificate", Outage.MISCONFIGURED),
)
"""In lower case. psycopg's errors of connecting have no SQLSTATE; a server whose messages are translated is not understood."""

_BY_TYPE: Final = {
    "SSLCertVerificationError": Outage.MISCONFIGURED,
    "SSLEOFError": Outage.REFUSED,
    "SSLZeroReturnError": Outage.REFUSED,
    "SSLSyscallError": Outage.REFUSED,
    "SSLError": Outage.MISCONFIGURED,
    "ClientConfigurationError": Outage.MISCONFIGURED,  # asyncpg
    "UnsupportedClientFeatureError": Outage.MISCONFIGURED,  # asyncpg
    "InternalClientError": Outage.REFUSED,  # asyncpg: the answer made no sense, or no host is the one that was asked for
}
_BY_ERRNO: Final = {
    errno.EACCES: Outage.MISCONFIGURED,
    errno.EISDIR: Outage.MISCONFIGURED,
    errno.ENOTDIR: Outage.MISCONFIGURED,
    errno.EMFILE: Outage.FULL,
    errno.ENFILE: Outage.FULL,
    errno.ENOBUFS: Outage.FULL,
    errno.ENOMEM: Outage.FULL,
    errno.EADDRNOTAVAIL: Outage.FULL,
}
_LINKS: Final = 8


def classify(error: BaseException) -> Outage:
    """
    Tell why a connect failed.

    Args:
        error: of the driver, of SQLAlchemy's adapter for it, or of SQLAlchemy; `orig` and `__cause__` are looked at too.
    """
    if not isinstance(error, Exception):
        return Outage.NONE
    chain = list(_chain(error))
    for judge in (_by_sqlstate, _by_type, _by_text):
        for link in chain:
            if (outage := judge(link)) is not None:
                return outage
    return Outage.NONE


def keepsake(error: BaseException) -> BaseException:
    """
    Give a copy that may be kept and raised again and again.

    A traceback would keep the frames of who saw the error first alive, and with them its sessions and connections.
    The causes cannot be copied one by one, so they lose theirs; an error that cannot be copied loses its own.
    """
    for link in _chain(error):
        if link is not error:
            link.__traceback__ = None
            link.__context__ = None
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - its class decides what copying does
        twin = error
    if type(twin) is not type(error) or str(twin) != str(error):
        twin = error
    if twin is error:
        twin.__context__ = None
    else:
        twin.__cause__ = error.__cause__
    return twin.with_traceback(None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error, what it wraps and what it came from, the outermost first."""
    seen: list[BaseException] = []
    ahead = [error]
    while ahead and len(seen) < _LINKS:
        link = ahead.pop(0)
        if any(link is other for other in seen):
            continue
        seen.append(link)
        yield link
        ahead += [inner for inner in (getattr(link, "orig", None), link.__cause__) if isinstance(inner, BaseException)]


def _by_sqlstate(error: BaseException) -> Outage | None:
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if not isinstance(code, str):
        return None
    outage = _BY_SQLSTATE.get(code) or _BY_SQLSTATE.get(code[:2]) or Outage.NONE
    return _said(error, outage) if code in _VAGUE else outage


def _by_type(error: BaseException) -> Outage | None:
    for name in _names(error):
        if name in _BY_TYPE:
            return _BY_TYPE[name]
    if isinstance(error, (OSError, EOFError)):  # TimeoutError and socket.gaierror are OSErrors
        return _BY_ERRNO.get(getattr(error, "errno", None) or 0) or _said(error, Outage.REFUSED)
    return Outage.NONE if hasattr(error, "sqlite_errorname") else None  # a file is there or not


def _by_text(error: BaseException) -> Outage | None:
    """Judge an error of a driver that has nothing but a text."""
    names = set(_names(error))
    if not names & {"DatabaseError", "InterfaceError"}:
        return None
    nobody = Outage.REFUSED if names & {"OperationalError", "InterfaceError"} else Outage.NONE
    outage = _said(error, nobody)
    return None if outage is Outage.NONE else outage


def _said(error: BaseException, default: Outage) -> Outage:
    text = str(error).lower()
    return next((outage for words, outage in _BY_TEXT if words in text), default)


def _names(error: BaseException) -> list[str]:
    """Give the names of an error's classes, its own first."""
    return [cls.__name__ for cls in type(error).__mro__]
