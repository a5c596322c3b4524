"""What the doctor's tests examine, and with which roles: helpers for both sides."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace

import asyncpg
import psycopg

from sqla_poolguard._cli.doctor.examination import examine
from sqla_poolguard._cli.doctor.surroundings import look_around
from sqla_poolguard._cli.doctor.target import find

ROLES = (
    "CREATE ROLE app LOGIN PASSWORD 'hers-and-hers-alone'",
    "CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 4",
    "CREATE ROLE bounded LOGIN PASSWORD 'bounded'",
    "ALTER ROLE bounded SET idle_in_transaction_session_timeout = '60s'",
    "ALTER ROLE bounded SET statement_timeout = '30s'",
    "ALTER ROLE bounded SET lock_timeout = '10s'",
    "ALTER ROLE bounded SET client_connection_check_interval = '5s'",
    "CREATE DATABASE small CONNECTION LIMIT 6",
)
ENGINE = """
from sqlalchemy.ext.asyncio import create_async_engine
engine = create_async_engine("{url}".replace("postgresql://", "postgresql+asyncpg://"), {options})
"""
CROWD = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
PASSWORDS = {"app": "hers-and-hers-alone", "few": "few", "bounded": "bounded"}


def run(url, *statements):
    """Run statements as a role, on a connection of their own."""

    async def do():
        async with opened(url) as connection:
            for statement in statements:
                await connection.execute(statement)

    asyncio.run(do())


def deserted(url):
    """Wait until those who have left are gone."""

    async def wait():
        async with opened(url) as connection:
            while await connection.fetchval(CROWD):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(wait(), 20))


@asynccontextmanager
async def opened(url, **options):
    """Have a connection for the block."""
    connection = await asyncpg.connect(url, timeout=20, **options)
    try:
        yield connection
    finally:
        await connection.close(timeout=20)


def as_role(server, role, database="postgres", driver="postgresql"):
    """Give the URL with which a role connects, to a server or through a PgBouncer."""
    return f"{driver}://{role}:{PASSWORDS[role]}@{server.host}:{server.port}/{database}"


def console(bouncer, command):
    """Ask a PgBouncer's console; what gives no rows gives none."""
    url = bouncer.url("postgresql", "pgbouncer")
    with psycopg.connect(url, autocommit=True, connect_timeout=20, cursor_factory=psycopg.ClientCursor) as connection:
        cursor = connection.execute(command)
        return cursor.fetchall() if cursor.description else []


def diagnose(name, *, dsn=None, options=None, offline=False, counts=None, **told):
    """Examine, and give what was found by code, and the evidence."""
    target = find(name, dsn, options or {})
    examination = examine(target, look_around(counts or {}, **told), offline=offline)
    findings = {}
    for finding in examination.findings:
        findings.setdefault(finding.code, finding)
    return SimpleNamespace(codes=set(findings), evidence=examination.evidence, examination=examination, **findings)


def command(*arguments, environment=None):
    """Run `poolguard doctor` in a process of its own."""
    started = [sys.executable, "-m", "sqla_poolguard", "doctor", *arguments]
    env = {**os.environ, "COLUMNS": "80", **(environment or {})}
    return subprocess.run(started, capture_output=True, text=True, check=False, env=env, timeout=60)
