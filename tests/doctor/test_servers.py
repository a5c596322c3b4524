"""The servers that the doctor's tests bring along are what they say they are, and leave nothing."""

from __future__ import annotations

import asyncio
import os

import asyncpg
import pytest
from doubles import older
from doubles.bouncer import PgBouncer
from doubles.debian import fetch
from doubles.patient import console

pytestmark = pytest.mark.postgres


def ask(url, query):
    """Run one query on a connection of its own."""

    async def run():
        connection = await asyncpg.connect(url, timeout=20)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.mark.parametrize("version", ["1.18", "1.24"])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_bouncer(bouncers, version, mode):
    """It is of the version and in the mode that was asked for, and leads to the server."""
    bouncer = bouncers(version, mode)
    assert ask(bouncer.url("postgresql"), "SELECT 6 * 7") == 42
    assert console(bouncer, "SHOW VERSION")[0][0].startswith(f"PgBouncer {version}.")
    modes = {row[0]: row[1] for row in console(bouncer, "SHOW CONFIG")}
    assert modes["pool_mode"] == mode


def test_bouncer_leaves_nothing(behind):
    """At the end of its block its process and its folder are gone, and its address is free."""
    with PgBouncer("1.24", behind, users={"somebody": "hers"}, settings={"auth_type": "trust"}) as bouncer:
        assert ask(bouncer.url("postgresql"), "SELECT 1") == 1
        assert ":hers@" in bouncer.url(user="somebody")
        process, root = bouncer._guardian.process, bouncer._guardian.root
    assert process.poll() is not None
    assert not root.exists()
    with pytest.raises(OSError, match="Connect"):
        ask(bouncer.url("postgresql"), "SELECT 1")


def test_bouncer_that_cannot_start_says_why(behind):
    """What PgBouncer said is in the error."""
    with pytest.raises(RuntimeError, match=r"PgBouncer 1\.18 did not start: (?s:.*)nonsense"):
        PgBouncer("1.18", behind, settings={"pool_mode": "nonsense"}).__enter__()


def test_older(postgres15):
    """The older PostgreSQL is the older one."""
    assert ask(postgres15.url("postgresql"), "SHOW server_version").startswith(f"{older.VERSION}.")


def test_somebody_elses_folder_is_not_used(monkeypatch, tmp_path):
    """Programs are not run out of a folder that another user of the machine has made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="somebody else's"):
        fetch("anything", "bookworm", [])
