"""Real servers for the doctor to examine: PostgreSQL new and old, PgBouncer new and old, in session and in transaction mode."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from doubles import older
from doubles.bouncer import PgBouncer

from sqla_poolguard._cli.embedded import EmbeddedPostgres


@pytest.fixture(scope="session")
def newest():
    """A PostgreSQL out of the wheel."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres15():
    """A PostgreSQL 15."""
    with EmbeddedPostgres(bindir=older.bindir()) as server:
        yield server


@pytest.fixture(scope="session", params=["newest", "postgres15"])
def server(request):
    """A PostgreSQL, new and old."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def bouncers(newest):
    """Give a PgBouncer of a version and a mode before the newest PostgreSQL, the same one for the whole session."""
    running = {}
    with ExitStack() as stack:

        def bouncer(version, mode):
            if (version, mode) not in running:
                running[version, mode] = stack.enter_context(PgBouncer(version, newest, mode=mode))
            return running[version, mode]

        yield bouncer
