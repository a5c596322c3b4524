"""Errors of connecting as the real thing makes them: PostgreSQL, and what only looks like it, through both drivers."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sqla_poolguard._cli.embedded import EmbeddedPostgres
from sqla_poolguard._outage import Outage, classify

pytestmark = pytest.mark.postgres

DRIVERS = ["asyncpg", "psycopg"]


@pytest.fixture(scope="module")
def server():
    """Give a PostgreSQL of this module's own, which may be filled and frozen."""
    with EmbeddedPostgres(max_connections=20) as running:
        yield running


@pytest.fixture(params=DRIVERS)
def url(request, server):
    """Give its URL for each driver."""
    return make_url(server.url(f"postgresql+{request.param}"))


async def error_of(url, **connect_args):
    """Give what a request gets when it connects."""
    engine = create_async_engine(url, poolclass=NullPool, connect_args=connect_args)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is the question
        async with asyncio.timeout(20), engine.connect():
            pass
    await engine.dispose()
    return caught.value


@asynccontextmanager
async def admin(server):
    """Give a connection of the superuser's."""
    connection = await asyncpg.connect(server.url("postgresql"))
    try:
        yield connection
    finally:
        await connection.close()


async def one_more(server):
    """Connect once more; None when the server is full."""
    try:
        return await asyncpg.connect(server.url("postgresql"))
    except asyncpg.TooManyConnectionsError as error:
        assert classify(error) is Outage.FULL  # noqa: PT017 - told apart here, not expected
        return None


@asynccontextmanager
async def pretender(answer):
    """Give the port of a server that answers a client's first message with this; None: it resets the connection."""

    async def serve(reader, writer):
        try:
            asked = await reader.read(1024)
            while asked[4:8] in {b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"}:  # for TLS, or for GSSAPI
                writer.write(b"N")
                asked = await reader.read(1024)
            if answer is None:
                writer.transport.abort()
            else:
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]


def fatal(code, text):
    """Give a server's message."""
    body = b"".join(part.encode() + b"\0" for part in ("SFATAL", "VFATAL", f"C{code}", f"M{text}", ""))
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "change",
    [
        {"password": "wrong"},
        {"password": ""},
        {"username": "nobody"},
        {"database": "nix"},
        {"database": "nocon"},
        {"username": "outsider", "password": "x", "database": "closed"},
        {"username": "nologin", "password": "x"},
    ],
    ids=lambda change: "-".join(f"{name}_{value}" for name, value in change.items() if name != "password" or len(change) == 1),
)
async def test_it_will_not_let_us_in(server, url, change):
    """Password, role, database and privilege are for a person to mend."""
    async with admin(server) as connection:
        for name, statement in {
            "outsider": "CREATE ROLE outsider LOGIN PASSWORD 'x'",
            "nologin": "CREATE ROLE nologin PASSWORD 'x'",
            "nocon": "CREATE DATABASE nocon ALLOW_CONNECTIONS false",
            "closed": "CREATE DATABASE closed",
        }.items():
            if not await connection.fetchval(
                "SELECT $1 IN (SELECT rolname FROM pg_roles UNION SELECT datname FROM pg_database)", name
            ):
                await connection.execute(statement)
        await connection.execute("REVOKE CONNECT ON DATABASE closed FROM public")
    assert classify(await error_of(url.set(**change))) is Outage.MISCONFIGURED


@pytest.mark.parametrize(
    "options",
    [
        {"asyncpg": {"server_settings": {"nix": "1"}}, "psycopg": {"options": "-c nix=1"}},
        {"asyncpg": {"server_settings": {"TimeZone": "Mars"}}, "psycopg": {"options": "-c TimeZone=Mars"}},
        {"asyncpg": {"ssl": "require"}, "psycopg": {"sslmode": "require"}},
        {"asyncpg": {"ssl": "bogus"}, "psycopg": {"sslmode": "bogus"}},
        {"asyncpg": {"ssl": "verify-full"}, "psycopg": {"sslmode": "verify-full"}},
    ],
    ids=["no such setting", "no such value", "no TLS there", "no such mode", "no certificate here"],
)
async def test_options_it_does_not_take(url, options):
    """So are the driver's options and the server's settings."""
    assert classify(await error_of(url, **options[url.get_driver_name()])) is Outage.MISCONFIGURED


async def test_nobody_there(url):
    """A closed port, and a host that does not exist."""
    assert classify(await error_of(url.set(port=1))) is Outage.REFUSED
    assert classify(await error_of(url.set(host="nowhere.invalid"))) is Outage.REFUSED


async def test_full(server, url):
    """Too many connections, of the server or of a role."""
    async with admin(server) as connection:
        await connection.execute("DROP ROLE IF EXISTS limited")
        await connection.execute("CREATE ROLE limited LOGIN PASSWORD 'x' CONNECTION LIMIT 0")
        assert classify(await error_of(url.set(username="limited", password="x"))) is Outage.FULL
        await connection.execute("ALTER ROLE limited CONNECTION LIMIT -1")
        taken = []
        try:
            while (given := await one_more(server)) is not None:
                taken.append(given)
            assert classify(await error_of(url)) is Outage.FULL
            await taken.pop().close()  # the last ones are kept for superusers
            assert classify(await error_of(url.set(username="limited", password="x"))) is Outage.FULL
        finally:
            for each in taken:
                await each.close()


async def test_no_answer(server, url):
    """A server that is frozen accepts, and says nothing."""
    own = {"asyncpg": {"timeout": 0.5}, "psycopg": {"connect_timeout": 2}}[url.get_driver_name()]
    os.kill(server.pids()[0], signal.SIGSTOP)
    try:
        assert classify(await error_of(url, **own)) is Outage.REFUSED
    finally:
        os.kill(server.pids()[0], signal.SIGCONT)


@pytest.mark.parametrize(
    ("answer", "outage"),
    [
        (b"", Outage.REFUSED),
        (None, Outage.REFUSED),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Outage.REFUSED),
        (fatal("57P03", "the database system is starting up"), Outage.STARTING),
        (fatal("57P03", "the database system is shutting down"), Outage.SHUTTING_DOWN),
        (fatal("57P01", "terminating connection due to administrator command"), Outage.SHUTTING_DOWN),
        (fatal("08P01", "no more connections allowed (max_client_conn)"), Outage.FULL),
        (fatal("3D000", "no such database: nix"), Outage.MISCONFIGURED),
        (fatal("08P01", "unsupported startup parameter: statement_timeout"), Outage.MISCONFIGURED),
        (fatal("XX000", "internal error"), Outage.REFUSED),
        (fatal("28000", "no pg_hba.conf entry for host"), Outage.MISCONFIGURED),
    ],
    ids=[
        "closed",
        "reset",
        "not it",
        "starting",
        "stopping",
        "stopped",
        "pooler full",
        "pooler: no db",
        "pooler: option",
        "bug",
        "hba",
    ],
)
async def test_what_it_may_answer(url, answer, outage):
    """What cannot be had from the real one at will, nor without a pooler."""
    async with pretender(answer) as port:
        assert classify(await error_of(url.set(port=port))) is outage


@pytest.mark.parametrize("driver", DRIVERS)
async def test_killed_while_connecting(driver):
    """Whatever connects while the server crashes learns that it is away; and so does who comes after."""
    with EmbeddedPostgres() as server:
        url = server.url(f"postgresql+{driver}")
        os.kill(server.pids()[0], signal.SIGSTOP)
        connecting = [asyncio.create_task(error_of(url)) for _ in range(3)]
        await asyncio.sleep(0.3)
        os.kill(server.pids()[0], signal.SIGKILL)
        assert {classify(error) for error in await asyncio.gather(*connecting)} == {Outage.REFUSED}
        assert classify(await error_of(url)) is Outage.REFUSED
