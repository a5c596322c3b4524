"""Real servers for the doctor to examine: PostgreSQL new and old, PgBouncer new and old, in session and in transaction mode."""

from __future__ import annotations

import gc
import itertools
import sys
from contextlib import ExitStack

import pytest
from doubles import older
from doubles.bouncer import PgBouncer
from doubles.patient import PASSWORDS, ROLES, deserted, run

from sqla_poolguard._cli.embedded import EmbeddedPostgres

_names = itertools.count()


@pytest.fixture(scope="session")
def newest():
    """A PostgreSQL out of the wheel."""
    with EmbeddedPostgres() as server:
        run(server.url("postgresql"), *ROLES)
        run(server.url("postgresql"), "ALTER ROLE bounded SET transaction_timeout = '120s'")
        yield server


@pytest.fixture(scope="session")
def postgres15():
    """A PostgreSQL 15."""
    with EmbeddedPostgres(bindir=older.bindir()) as server:
        run(server.url("postgresql"), *ROLES)
        yield server


@pytest.fixture(params=["newest", "postgres15"])
def server(request):
    """A PostgreSQL, new and old, on which nobody is."""
    server = request.getfixturevalue(request.param)
    deserted(server.url("postgresql"))
    return server


@pytest.fixture(scope="session")
def behind():
    """A PostgreSQL out of the wheel, to which poolers lead; they keep connections to it."""
    with EmbeddedPostgres() as server:
        run(server.url("postgresql"), *ROLES)
        yield server


@pytest.fixture(scope="session")
def bouncers(behind):
    """Give a PgBouncer of a version, in a mode, with settings, before a new PostgreSQL: the same one for the whole session."""
    running = {}
    with ExitStack() as stack:

        def bouncer(version, mode, **settings):
            key = (version, mode, *sorted(settings.items()))
            if key not in running:
                running[key] = stack.enter_context(PgBouncer(version, behind, mode=mode, users=PASSWORDS, settings=settings))
            return running[key]

        yield bouncer


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Give a function that writes a module into the current folder, and gives its name; after the test it was never imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    written = []

    def write(text):
        name = f"doctors_patient_{next(_names)}"
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)
    gc.collect()
