"""What the doctor finds at real PgBouncers, old and new, in session and in transaction mode: where it must speak, and be silent."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import pytest
from doubles.bouncer import PgBouncer
from doubles.patient import ENGINE, PASSWORDS, ROLES, as_role, console, diagnose, opened, run

from sqla_poolguard._cli.doctor.evidence import Naming, Settings
from sqla_poolguard._cli.doctor.finding import Severity
from sqla_poolguard._cli.doctor.rules.pooler import hazard
from sqla_poolguard._cli.doctor.sights import Mode
from sqla_poolguard._cli.embedded import EmbeddedPostgres

pytestmark = pytest.mark.postgres

UNTRACKED = {"max_prepared_statements": 0}
KINDS = [("1.18", "session", {}), ("1.18", "transaction", {}), ("1.24", "session", {}), ("1.24", "transaction", {})]
KINDS += [("1.24", "session", UNTRACKED), ("1.24", "transaction", UNTRACKED)]
each_kind = pytest.mark.parametrize(("version", "mode", "settings"), KINDS)
SAFE = "connect_args={'statement_cache_size': 0, 'prepared_statement_name_func': lambda: ''}"
# Each transaction of each process prepares the same few statements, and checks what they give.
CROWD = """
import asyncio, collections, json, sys
from sqlalchemy import text
from {module} import engine
seen = collections.Counter()
async def client(i):
    for j in range(10):
        try:
            async with engine.connect() as connection:
                for k in range(4):
                    n = (i * 3 + j + k) % 11
                    value = (await connection.execute(text(f"SELECT CAST(:x AS int) * {{n}} + {{n}} AS c{{n}}"), {{"x": j}})).scalar()
                    seen["right" if value == j * n + n else "wrong"] += 1
                await connection.commit()
        except Exception as error:
            seen["failed"] += 1
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    await asyncio.gather(*map(client, range(6)))
    await engine.dispose()
asyncio.run(main())
print(json.dumps(seen))
"""


@each_kind
def test_mode_without_rights(bouncers, version, mode, settings):
    """PG006: a role that may not use the console is told that there is a pooler, and in which mode."""
    found = diagnose(as_role(bouncers(version, mode, **settings), "app"))
    assert found.PG006.severity is Severity.INFO
    assert found.evidence.pooler.mode is Mode(mode)
    assert found.evidence.pooler.console is None
    assert any("its console said" in sentence for sentence in found.evidence.unseen)
    assert "PG019" not in found.codes


@each_kind
def test_statements(bouncers, version, mode, settings):
    """PG007: an error where statements are shared by name; silence in session mode, and where PgBouncer keeps them apart."""
    url = as_role(bouncers(version, mode, **settings), "app")
    found = diagnose(url)
    if mode == "transaction" and (version == "1.18" or settings):
        assert found.PG007.severity is Severity.ERROR
        assert "given its rows, with no error at all" in found.PG007.why
        assert "statement_cache_size=100, prepared_statement_cache_size=100, names: counted" in found.PG007.evidence
        assert "PG007" in diagnose(url, options={"prepared_statement_cache_size": "0"}).codes
        assert "PG007" not in diagnose(url, options={"statement_cache_size": "0"}).codes
    else:
        assert "PG007" not in found.codes


@pytest.mark.parametrize("version", ["1.18", "1.24"])
@pytest.mark.parametrize("size", [1, 5])
def test_session_mode_that_cleans_up_nothing(bouncers, version, size):
    """PG006 and PG007: with an empty server_reset_query the next client finds what the last one set, in either mode: not told, and said so."""
    bouncer = bouncers(version, "session", server_reset_query="", default_pool_size=size)
    found = diagnose(as_role(bouncer, "app"))
    assert found.evidence.pooler.mode is Mode.UNKNOWN
    assert "its mode could not be told: what one client had set, the next one found" in found.PG006.evidence
    assert "or session mode with an empty server_reset_query" in found.PG006.evidence
    assert found.PG007.severity is Severity.WARNING
    assert any(sentence.startswith("when the pooler takes server connections back: ") for sentence in found.evidence.unseen)
    assert diagnose(bouncer.url("postgresql")).evidence.pooler.mode is Mode.SESSION  # the console knows


def test_transaction_mode_that_cleans_up(bouncers):
    """PG007: a pooler that wipes out everything after each transaction is in transaction mode, and not in session mode."""
    bouncer = bouncers("1.24", "transaction", server_reset_query_always=1, **UNTRACKED)
    found = diagnose(as_role(bouncer, "app"))
    assert found.evidence.pooler.mode_proof == "what a client had set was wiped out between its own transactions"
    assert "PG007" in found.codes


def test_wrong_results_are_real(bouncers, module):
    """PG007 is true: two processes with defaults get failures and other processes' rows; as it advises, neither."""

    def play(options):
        name = module(ENGINE.format(url=as_role(bouncers("1.18", "transaction"), "app"), options=options))
        said = diagnose(f"{name}:engine").codes
        command = [sys.executable, "-c", CROWD.format(module=name)]
        crowd = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in crowd:
            assert process.stdout.readline() == "ready\n"
        answers = [process.communicate("go\n")[0] for process in crowd]
        return said, sum(map(collections.Counter, map(json.loads, answers)), collections.Counter())

    said, seen = play("pool_size=6")
    assert "PG007" in said
    assert seen["wrong"] + seen["failed"] > 0
    said, seen = play(f"pool_size=6, {SAFE}".replace("': 0", "': 0, 'prepared_statement_cache_size': 0"))
    assert "PG007" not in said
    assert seen == {"right": 2 * 6 * 10 * 4}


@pytest.mark.parametrize(
    ("cache", "prepared", "naming", "asyncpg", "harm"),
    [
        (100, 100, Naming.COUNTED, "0.32.0", Naming.COUNTED),
        (100, 0, Naming.COUNTED, "0.32.0", Naming.COUNTED),
        (0, 100, Naming.COUNTED, "0.32.0", None),
        (0, 0, Naming.COUNTED, "0.31.0", None),
        (0, 0, Naming.COUNTED, "0.30.0", Naming.COUNTED),
        (0, 0, Naming.COUNTED, None, Naming.COUNTED),
        (0, 0, Naming.EMPTY, "0.29.0", None),
        (0, 100, Naming.EMPTY, "0.30.0", Naming.COUNTED),
        (0, 0, Naming.OWN, "0.32.0", Naming.OWN),
        (100, 100, Naming.OWN, "0.32.0", Naming.OWN),
    ],
)
def test_hazard(cache, prepared, naming, asyncpg, harm):
    """PG007 knows what was measured with each version of asyncpg."""
    settings = Settings(
        source="x",
        address="x",
        driver="asyncpg",
        pool="x",
        statement_cache_size=cache,
        prepared_cache_size=prepared,
        naming=naming,
    )
    assert hazard(settings, asyncpg) is harm


def test_names_of_ones_own(bouncers, module):
    """PG007: SQLAlchemy's recipe with names by chance leaves statements behind: a warning that says so."""
    options = "connect_args={'statement_cache_size': 0, 'prepared_statement_name_func': iter(map(str, range(10**9))).__next__}"
    name = module(ENGINE.format(url=as_role(bouncers("1.18", "transaction"), "app"), options=options))
    found = diagnose(f"{name}:engine").PG007
    assert found.severity is Severity.WARNING
    assert "they grow for ever" in found.why


@pytest.mark.parametrize("version", ["1.18", "1.24"])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_server_settings(bouncers, module, version, mode):
    """PG008: what PgBouncer refuses, found by trying; and everything else is still found. application_name is let through."""
    url = as_role(bouncers(version, mode), "app")
    jit = module(ENGINE.format(url=url, options="connect_args={'server_settings': {'jit': 'off', 'application_name': 'orders'}}"))
    found = diagnose(f"{jit}:engine")
    assert found.PG008.evidence == "the pooler said: unsupported startup parameter: jit"
    assert {"PG006"} <= found.codes
    name = module(ENGINE.format(url=url, options="connect_args={'server_settings': {'application_name': 'orders'}}"))
    assert "PG008" not in diagnose(f"{name}:engine").codes


def test_server_settings_that_are_ignored(bouncers, module):
    """PG008 is silent where PgBouncer was told to ignore them."""
    url = as_role(bouncers("1.24", "transaction", ignore_startup_parameters="jit"), "app")
    jit = module(ENGINE.format(url=url, options="connect_args={'server_settings': {'jit': 'off'}}"))
    assert "PG008" not in diagnose(f"{jit}:engine").codes


def test_ping(bouncers):
    """PG009: a ping asks the pooler; without one there is nothing to say. PG010 leaves it alone."""
    url = as_role(bouncers("1.24", "transaction"), "app")
    found = diagnose(url, options={"pool_pre_ping": "true"})
    assert found.PG009.evidence.startswith("pool_pre_ping=True: three round trips at every checkout; one takes ")
    assert "PG010" not in found.codes
    assert "PG009" not in diagnose(url).codes


@pytest.mark.parametrize("version", ["1.18", "1.24"])
def test_console(bouncers, version):
    """PG019: a role that may use the console learns whether limits fit; those that fit are not mentioned."""
    fits = bouncers(version, "transaction")
    found = diagnose(fits.url("postgresql"), counts={"replicas": 2})
    assert found.evidence.pooler.console.version.startswith(f"{version}.")
    assert "PG019" not in found.codes
    clients = diagnose(fits.url("postgresql"), counts={"replicas": 20}).PG019
    assert clients.evidence == "5+10 x 20 processes at peak (--replicas 20) = 300 clients; max_client_conn is 100"
    big = bouncers(version, "transaction", default_pool_size=30, reserve_pool_size=20)
    servers = diagnose(big.url("postgresql")).PG019
    assert servers.severity is Severity.ERROR
    assert "1 pool of 30 + reserve_pool_size 20 = 50 server connections; the server has 40 for role postgres" in servers.evidence
    bounded = bouncers(version, "transaction", default_pool_size=30, reserve_pool_size=20, max_db_connections=25)
    assert "PG019" not in diagnose(bounded.url("postgresql")).codes


@pytest.mark.parametrize("version", ["1.18", "1.24"])
def test_console_counts_what_can_be_opened(behind, version):
    """PG019: a database's own size, reserve and limit, and a user's limit, count; pools that lead to another server do not."""
    databases = {
        "wide": "dbname=postgres pool_size=50",
        "narrow": "dbname=postgres pool_size=50 max_db_connections=5",
        "reserve": f"dbname=postgres pool_size=30 reserve_pool{'' if version == '1.18' else '_size'}=20",
        "*": "",
    }

    def over(database, *others, **settings):
        with PgBouncer(version, behind, users=PASSWORDS, databases=databases, settings=settings) as bouncer:

            async def pools():
                async with AsyncExitStack() as stack:
                    for name in others:
                        await stack.enter_async_context(opened(bouncer.url("postgresql", name)))
                    return await asyncio.to_thread(diagnose, bouncer.url("postgresql", database))

            found = asyncio.run(pools())
            return found.PG019.evidence if "PG019" in found.codes else None

    assert over("wide").startswith("1 pool of 50 = 50 server connections; the server has 40")
    assert over("narrow") is None
    assert over("reserve").startswith("1 pool of 30 + reserve_pool_size 20 = 50 server connections")
    assert over("reserve", reserve_pool_timeout=0) is None
    assert over("wide", max_user_connections=30) is None
    assert over("wide", "narrow", "reserve", max_user_connections=45).startswith(
        "3 pools of 30 or 50 + reserve_pool_size 20, bounded by max_db_connections and max_user_connections = 45 server"
    )


def test_console_while_clients_wait(behind):
    """PG019: clients that wait for a server connection now; the doctor, one of them, gives up in time and says so."""
    databases = {"crowded": "dbname=postgres pool_size=1", "*": ""}
    with PgBouncer("1.24", behind, users=PASSWORDS, databases=databases) as bouncer:

        async def crowd():
            async with opened(bouncer.url("postgresql", "crowded")) as first, opened(bouncer.url("postgresql", "postgres")):
                await first.execute("BEGIN")
                second = asyncio.create_task(_select(bouncer.url("postgresql", "crowded")))
                await asyncio.sleep(1.2)
                found = await asyncio.to_thread(diagnose, bouncer.url("postgresql"))
                await first.execute("COMMIT")
                await second
                return found

        found = asyncio.run(crowd()).PG019
    assert found.severity is Severity.WARNING
    assert found.evidence.startswith("1 client of crowded/postgres wait for a server connection, the first for ")


@pytest.mark.parametrize(("version", "fault"), [("1.18", "busy"), ("1.24", "busy"), ("1.24", "paused"), ("1.24", "stalled")])
def test_pooler_that_gives_no_server_connection(version, fault):
    """PG024: an exhausted pool, a paused one and a server that hangs are told apart, by who may use the console; else all are named."""
    settings = {"default_pool_size": 1}
    with EmbeddedPostgres() as own, PgBouncer(version, own, users=PASSWORDS, settings=settings) as bouncer:
        run(own.url("postgresql"), *ROLES[:1])
        urls = bouncer.url("postgresql"), as_role(bouncer, "app")

        async def look():
            async with opened(urls[0]) as first, opened(urls[1]) as second:
                for held in (first, second):
                    await held.execute("BEGIN" if fault == "busy" else "SELECT 1")
                if fault == "paused":
                    await asyncio.to_thread(console, bouncer, "PAUSE postgres")
                elif fault == "stalled":
                    for pid in own.pids():
                        os.kill(pid, signal.SIGSTOP)
                began = time.monotonic()
                found = await asyncio.gather(*(asyncio.to_thread(diagnose, url) for url in urls))
                seconds = time.monotonic() - began
                if fault == "paused":
                    await asyncio.to_thread(console, bouncer, "RESUME postgres")
                elif fault == "stalled":
                    for pid in own.pids():
                        os.kill(pid, signal.SIGCONT)
                return *found, seconds

        admin, app, seconds = asyncio.run(look())
    assert seconds < 8
    said = {
        "busy": "pool exhausted: PgBouncer has no server connection to give (postgres/postgres: 1 busy, none free; 0 clients wait",
        "paused": "; PgBouncer has paused the database (RESUME postgres)",
        "stalled": "; PgBouncer answers, the server behind it does not",
    }
    assert said[fault] in admin.PG024.evidence
    assert app.PG024.evidence.startswith("silent: ")
    assert "its pool is exhausted, or the server behind it hangs" in app.PG024.evidence
    assert "PG019" not in admin.codes | app.codes
    for found in (admin, app):
        assert found.PG006.evidence.startswith("PgBouncer's console answers there; ")


def test_pooler_that_gives_up(behind):
    """PG024: query_wait_timeout, said in the middle of a look, is the pooler's."""
    settings = {"default_pool_size": 1, "query_wait_timeout": 1}
    with PgBouncer("1.24", behind, users=PASSWORDS, settings=settings) as bouncer:

        async def look():
            async with opened(as_role(bouncer, "app")) as first:
                await first.execute("BEGIN")
                return await asyncio.to_thread(diagnose, as_role(bouncer, "app"))

        assert "query_wait_timeout" in asyncio.run(look()).PG024.evidence


async def _select(url):
    async with opened(url) as connection:
        assert await connection.fetchval("SELECT 1") == 1


def test_pooler_is_full(behind):
    """PG024: PgBouncer takes no more clients, which is not the server's 53300."""
    with PgBouncer("1.24", behind, users=PASSWORDS, settings={"max_client_conn": 1}) as bouncer:

        async def crowd():
            async with opened(bouncer.url("postgresql")):
                return await asyncio.to_thread(diagnose, as_role(bouncer, "app"))

        assert asyncio.run(crowd()).PG024.evidence.startswith("pooler full: no more connections allowed")


def test_statement_mode(behind):
    """A pooler in statement mode allows no transaction; that it is one is told by that."""
    with PgBouncer("1.24", behind, mode="statement", users=PASSWORDS) as bouncer:
        found = diagnose(as_role(bouncer, "app"))
    assert found.evidence.pooler.mode is Mode.STATEMENT
    assert "PG006" in found.codes


def test_nothing_is_left(bouncers):
    """What the probe sets and prepares is gone from the server connections of a pooler."""
    bouncer = bouncers("1.18", "transaction")
    for _ in range(3):
        assert diagnose(as_role(bouncer, "app")).evidence.pooler.mode is Mode.TRANSACTION

    async def look():
        async with opened(as_role(bouncer, "app"), statement_cache_size=0) as connection:
            names = await connection.fetch("SELECT name FROM pg_prepared_statements WHERE name LIKE 'poolguard%'")
            return names, await connection.fetchval("SELECT current_setting('poolguard.doctor', true)")

    names, setting = asyncio.run(look())
    assert names == []
    assert not setting
