"""The table of errors of connecting: real classes of both drivers, bare, as SQLAlchemy's adapter gives them, and as SQLAlchemy does."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import sqlite3
import ssl
import weakref

import asyncpg
import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from sqla_poolguard._outage import Outage, classify, keepsake

DBAPI = dialect.import_dbapi()


def server_error(code, text):
    """Give what asyncpg makes of a server's message."""
    return asyncpg.exceptions.PostgresError.new({"C": code, "M": text, "S": "FATAL"})


def adapted(error):
    """Give what SQLAlchemy's adapter makes of an error of asyncpg."""
    for cls in type(error).__mro__:
        if cls in DBAPI._asyncpg_error_translate:
            try:
                raise DBAPI._asyncpg_error_translate[cls](error.args[0], error) from error
            except DBAPI.Error as translated:
                return translated
    return error


def wrapped(error):
    """Give what an engine makes of an error of its driver."""
    base = psycopg.Error if isinstance(error, psycopg.Error) else DBAPI.Error
    return sqlalchemy.exc.DBAPIError.instance(None, None, error, base) if isinstance(error, base) else error


SERVER = [
    ("08000", "connection exception", Outage.REFUSED),
    ("08001", "cannot establish", Outage.REFUSED),
    ("08003", "connection was closed in the middle of operation", Outage.REFUSED),
    ("08006", "connection failure", Outage.REFUSED),
    ("08P01", "query_wait_timeout", Outage.REFUSED),
    ("08P01", "server login has been failing, try again later (server_login_retry)", Outage.REFUSED),
    ("08P01", "no more connections allowed (max_client_conn)", Outage.FULL),
    ("08P01", "unsupported startup parameter: statement_timeout", Outage.MISCONFIGURED),
    ("08P01", "server login failed: FATAL password authentication failed", Outage.MISCONFIGURED),
    ("0A000", "unsupported frontend protocol 3.0", Outage.MISCONFIGURED),
    ("22023", 'invalid value for parameter "TimeZone": "Mars"', Outage.MISCONFIGURED),
    ("28000", 'no pg_hba.conf entry for host "10.0.0.1"', Outage.MISCONFIGURED),
    ("28P01", 'password authentication failed for user "app"', Outage.MISCONFIGURED),
    ("3D000", 'database "nix" does not exist', Outage.MISCONFIGURED),
    ("42501", 'permission denied for database "orders"', Outage.MISCONFIGURED),
    ("42704", 'unrecognized configuration parameter "nix"', Outage.MISCONFIGURED),
    ("53200", "out of memory", Outage.FULL),
    ("53300", "sorry, too many clients already", Outage.FULL),
    ("53300", 'too many connections for role "app"', Outage.FULL),
    ("55000", 'database "orders" is not currently accepting connections', Outage.MISCONFIGURED),
    ("57P01", "terminating connection due to administrator command", Outage.SHUTTING_DOWN),
    ("57P02", "terminating connection because of crash of another server process", Outage.SHUTTING_DOWN),
    ("57P03", "the database system is starting up", Outage.STARTING),
    ("57P03", "the database system is in recovery mode", Outage.STARTING),
    ("57P03", "the database system is shutting down", Outage.SHUTTING_DOWN),
    ("57P04", 'database "orders" has been dropped', Outage.MISCONFIGURED),
    ("58030", "could not read file", Outage.REFUSED),
    ("XX000", "internal error", Outage.REFUSED),
    ("XX000", "Max client connections reached", Outage.FULL),
    ("42601", "syntax error in a listener's statement", Outage.NONE),
    ("57014", "canceling a listener's statement due to statement timeout", Outage.NONE),
    ("23505", "a listener's insert", Outage.NONE),
]


@pytest.mark.parametrize(
    "dress", [lambda error: error, adapted, lambda error: wrapped(adapted(error))], ids=["bare", "adapted", "wrapped"]
)
@pytest.mark.parametrize(("code", "text", "outage"), SERVER)
def test_what_the_server_says(code, text, outage, dress):
    """Its SQLSTATE decides, in whatever it is wrapped; SQLAlchemy 2.0 wraps nothing here."""
    assert classify(dress(server_error(code, text))) is outage


LIBPQ = [
    (
        "connection failed: connection to server at 127.0.0.1, port 1 failed: Connection refused\n\tIs the server running",
        "refused",
    ),
    ("failed to resolve host 'nowhere.invalid': [Errno -2] Name or service not known", "refused"),
    ("connection failed: server closed the connection unexpectedly\n\tThis probably means the server terminated", "refused"),
    ("connection failed: FATAL:  Kennwort-Authentifizierung fehlgeschlagen", "refused"),
    ("connection failed: FATAL:  sorry, too many clients already", "full"),
    ('connection failed: FATAL:  too many connections for role "lim"', "full"),
    ("connection failed: FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "full"),
    ("connection failed: FATAL:  no more connections allowed (max_client_conn)", "full"),
    ("connection failed: FATAL:  the database system is starting up", "starting"),
    ("connection failed: FATAL:  the database system is not yet accepting connections", "starting"),
    ("connection failed: FATAL:  the database system is shutting down", "shutting_down"),
    ("connection failed: FATAL:  terminating connection due to administrator command", "shutting_down"),
    ('connection failed: FATAL:  password authentication failed for user "postgres"', "misconfigured"),
    ("connection failed: fe_sendauth: no password supplied", "misconfigured"),
    ('connection failed: FATAL:  database "nix" does not exist', "misconfigured"),
    ('connection failed: FATAL:  role "plain" is not permitted to log in', "misconfigured"),
    ('connection failed: FATAL:  permission denied for database "dlim"', "misconfigured"),
    ('connection failed: FATAL:  unrecognized configuration parameter "nix"', "misconfigured"),
    ("connection failed: server does not support SSL, but SSL was required", "misconfigured"),
    ('connection is bad: invalid sslmode value: "bogus"', "misconfigured"),
    ("connection failed: SSL error: certificate verify failed", "misconfigured"),
]


@pytest.mark.parametrize("dress", [lambda error: error, wrapped], ids=["bare", "wrapped"])
@pytest.mark.parametrize(("text", "outage"), LIBPQ)
def test_what_libpq_says(text, outage, dress):
    """Errors of psycopg while it connects have no SQLSTATE: the text decides, and what it does not tell is nobody there."""
    assert classify(dress(psycopg.OperationalError(text))) is Outage(outage)


OTHERS = [
    (ConnectionRefusedError(111, "Connect call failed"), Outage.REFUSED),
    (ConnectionResetError(104, "Connection reset by peer"), Outage.REFUSED),
    (BrokenPipeError(32, "Broken pipe"), Outage.REFUSED),
    (OSError(errno.EHOSTUNREACH, "No route to host"), Outage.REFUSED),
    (OSError("Multiple exceptions: [Errno 111] Connect call failed"), Outage.REFUSED),
    (FileNotFoundError(2, "No such file or directory"), Outage.REFUSED),
    (socket.gaierror(-2, "Name or service not known"), Outage.REFUSED),
    (TimeoutError(), Outage.REFUSED),
    (asyncio.IncompleteReadError(b"", 1), Outage.REFUSED),
    (psycopg.errors.ConnectionTimeout("connection timeout expired"), Outage.REFUSED),
    (OSError(errno.EMFILE, "Too many open files"), Outage.FULL),
    (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), Outage.FULL),
    (PermissionError(errno.EACCES, "Permission denied"), Outage.MISCONFIGURED),
    (PermissionError(errno.EPERM, "Operation not permitted"), Outage.REFUSED),
    (ConnectionError('PostgreSQL server at "db:5432" rejected SSL upgrade'), Outage.MISCONFIGURED),
    (ssl.SSLCertVerificationError(1, "certificate verify failed: certificate has expired"), Outage.MISCONFIGURED),
    (ssl.SSLError(1, "wrong version number"), Outage.MISCONFIGURED),
    (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), Outage.REFUSED),
    (asyncpg.exceptions.ClientConfigurationError("invalid DSN"), Outage.MISCONFIGURED),
    (adapted(asyncpg.exceptions.ClientConfigurationError("invalid DSN")), Outage.MISCONFIGURED),
    (wrapped(adapted(asyncpg.exceptions.ClientConfigurationError("invalid DSN"))), Outage.MISCONFIGURED),
    (adapted(asyncpg.exceptions.InterfaceError("connection is closed")), Outage.REFUSED),
    (asyncpg.exceptions.TargetServerAttributeNotMatched("None of the hosts match"), Outage.REFUSED),
    (psycopg.ProgrammingError('invalid connection option "nix"'), Outage.MISCONFIGURED),
    (psycopg.errors.SyntaxError("a listener's statement"), Outage.NONE),
    (psycopg.ProgrammingError("the last operation didn't produce records"), Outage.NONE),
    (TypeError("connect() got an unexpected keyword argument"), Outage.NONE),
    (ValueError("a listener's own"), Outage.NONE),
    (RuntimeError("too many connections"), Outage.NONE),
    (sqlalchemy.exc.ArgumentError("a listener's own"), Outage.NONE),
    (sqlalchemy.exc.TimeoutError("another pool's"), Outage.NONE),
    (asyncio.CancelledError(), Outage.NONE),
    (KeyboardInterrupt(), Outage.NONE),
    (GeneratorExit(), Outage.NONE),
]


@pytest.mark.parametrize(("error", "outage"), OTHERS, ids=[f"{type(error).__name__}-{outage}" for error, outage in OTHERS])
def test_what_the_network_and_the_program_say(error, outage):
    """What is raised before the server says anything, or by somebody else."""
    assert classify(error) is outage


def test_sqlite_has_no_outages():
    """A file that cannot be opened is no server that is down."""
    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect("/nowhere/at/all.db")
    assert classify(caught.value) is Outage.NONE


def test_what_an_error_came_from_counts():
    """A wrapper of one's own, around an error of the network, is judged by that; by its context it is not."""
    wrapper = RuntimeError("no vault")
    wrapper.__cause__ = ConnectionRefusedError()
    assert classify(wrapper) is Outage.REFUSED
    wrapper.__cause__, wrapper.__context__ = None, ConnectionRefusedError()
    assert classify(wrapper) is Outage.NONE


def test_circles_end():
    """An error that came from itself in the end is judged all the same."""
    one, other = RuntimeError(), RuntimeError()
    one.__cause__, other.__cause__ = other, one
    assert classify(one) is Outage.NONE


@pytest.mark.parametrize("outage", Outage)
def test_every_kind_is_decided(outage):
    """What is no outage does not count; what a person must mend is shown as it is."""
    assert outage.counts == (outage != "none")
    assert outage.unchanged == (outage in {"none", "misconfigured"})


@pytest.mark.parametrize(
    "error", [adapted(server_error("53300", "full")), psycopg.OperationalError("x"), *(e for e, _ in OTHERS[:12])]
)
def test_keepsake_is_a_copy(error):
    """It says the same and is judged alike, and has no traceback."""
    with pytest.raises(type(error)) as caught:
        raise error
    kept = keepsake(caught.value)
    assert kept is not error
    assert (type(kept), str(kept), kept.__cause__) == (type(error), str(error), error.__cause__)
    assert kept.__traceback__ is None
    assert error.__traceback__ is not None
    assert classify(kept) is classify(error)


def test_keepsake_of_what_cannot_be_copied():
    """Then it is the error itself, and loses its traceback."""

    class OddError(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    with pytest.raises(OddError) as caught:
        raise OddError(1, 2)
    assert keepsake(caught.value) is caught.value
    assert caught.value.__traceback__ is None


def test_keepsake_keeps_no_frame_alive():
    """What the frames held that saw the error, or its causes, may go."""

    class Session:
        pass

    def connect():
        session = Session()
        seen.append(weakref.ref(session))
        try:
            raise ConnectionRefusedError(111, "no")
        except OSError as inner:
            raise adapted(server_error("08006", "gone")) from inner

    seen, kept = [], []
    try:
        connect()
    except DBAPI.Error as error:
        kept.append(keepsake(error))
    gc.collect()
    assert kept[0].__cause__ is not None
    assert seen[0]() is None
