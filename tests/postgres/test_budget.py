"""The room that we compute is the room that real servers give: connect until one is refused."""

from __future__ import annotations

from contextlib import suppress

import asyncpg
import pytest
from doubles import older

from sqla_poolguard._budget import LIMITS_SQL, Bound, Room, ServerLimits
from sqla_poolguard._cli.embedded import EmbeddedPostgres

MOST = 14
ROLES = """
CREATE ROLE plain LOGIN PASSWORD 'p';
CREATE ROLE narrow LOGIN PASSWORD 'p' CONNECTION LIMIT 4;
CREATE DATABASE small CONNECTION LIMIT 5;
"""


@pytest.fixture(scope="module", params=["newest", "15"])
def server(request):
    """Give a small server, and its major version."""
    options = {"superuser_reserved_connections": 3} | ({"reserved_connections": 2} if request.param == "newest" else {})
    with EmbeddedPostgres(
        max_connections=MOST, settings=options, bindir=older.bindir() if request.param == "15" else None
    ) as started:
        yield started


@pytest.fixture
async def roles(server):
    """Make the roles and the database, once for each server."""
    admin = await asyncpg.connect(server.url("postgresql"))
    try:
        if not await admin.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'plain'"):
            for statement in ROLES.strip().splitlines():
                await admin.execute(statement)
            if not server.version.startswith("15"):
                await admin.execute("CREATE ROLE trusted LOGIN PASSWORD 'p' IN ROLE pg_use_reserved_connections")
    finally:
        await admin.close()


async def fill(server, role, database):
    """Connect as a role until the server says no; give what it says its limits are, and how many connections that were."""
    to = {"host": server.host, "port": server.port, "database": database}
    to |= {"dsn": server.url("postgresql", database)} if role == "postgres" else {"user": role, "password": "p"}
    open_: list[asyncpg.Connection] = []
    try:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                open_.append(await asyncpg.connect(**to))
        return ServerLimits.of(await open_[0].fetchrow(LIMITS_SQL)), len(open_)
    finally:
        for connection in open_:
            await connection.close()
        await gone(server)


async def gone(server):
    """Wait until the server has noticed that they left."""
    while True:
        try:
            admin = await asyncpg.connect(server.url("postgresql"))
        except asyncpg.TooManyConnectionsError:
            continue
        try:
            while await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") > 1:
                pass
        finally:
            await admin.close()
        return


@pytest.mark.parametrize(
    ("role", "database", "bound"),
    [
        ("plain", "postgres", Bound.SERVER),
        ("trusted", "postgres", Bound.SERVER),
        ("postgres", "small", Bound.SERVER),
        ("narrow", "postgres", Bound.ROLE),
        ("plain", "small", Bound.DATABASE),
    ],
)
@pytest.mark.usefixtures("roles")
async def test_room_is_what_the_server_gives(server, role, database, bound):
    """The plain role, one that may use the reserve, the superuser, a role and a database with a limit of their own."""
    new = not server.version.startswith("15")
    if role == "trusted" and not new:
        role = "plain"  # before 16 nobody is trusted so
    expected = {"plain": MOST - 3 - 2 * new, "trusted": MOST - 3, "postgres": MOST, "narrow": 4}[role]
    limits, opened = await fill(server, role, database)
    assert limits.room == Room(min(expected, 5) if bound is Bound.DATABASE else expected, bound)
    assert opened == limits.room.slots
    assert (limits.version >= 160000) == new


@pytest.mark.usefixtures("roles")
async def test_role_that_logged_in_counts(server):
    """`SET ROLE` changes what one may do, and not how many connections one may have."""
    admin = await asyncpg.connect(server.url("postgresql"))
    try:
        await admin.execute("SET ROLE narrow")
        assert ServerLimits.of(await admin.fetchrow(LIMITS_SQL)).room == Room(MOST, Bound.SERVER)
    finally:
        await admin.close()


@pytest.mark.usefixtures("roles")
async def test_managed_service_with_a_reserve_of_its_own(server):
    """RDS keeps slots by a setting of its own, before PostgreSQL 16 had one; any server lets a session set one of that name."""
    admin = await asyncpg.connect(server.url("postgresql"), server_settings={"rds.rds_superuser_reserved_connections": "5"})
    try:
        reserved = ServerLimits.of(await admin.fetchrow(LIMITS_SQL)).reserved
    finally:
        await admin.close()
    assert reserved == (5 if server.version.startswith("15") else 2)
