"""Addresses with libpq's parameters, as they stand in environments: they work with the doctor, or it says which does not."""

from __future__ import annotations

import pytest
from doubles.patient import ENGINE, as_role, diagnose

from sqla_poolguard._cli.doctor.libpq import for_libpq, secrets_in, translated
from sqla_poolguard._cli.doctor.trouble import hushed

pytestmark = pytest.mark.postgres

PARAMETERS = (
    "application_name=orders&options=-c%20statement_timeout%3D7s&connect_timeout=5&target_session_attrs=read-write&keepalives=1"
)


def test_of_an_address(newest):
    """What says how the session begins is done; what says how libpq connects is left out, and that is said."""
    found = diagnose(f"{as_role(newest, 'app')}?{PARAMETERS}")
    assert found.evidence.server.timeouts["statement_timeout"] == 7
    assert found.evidence.settings[0].application_name == "orders"
    assert found.codes & {"PG018", "PG024"} == set()
    assert found.evidence.unseen == (
        "what connect_timeout, keepalives in the address would do: it is for libpq; the doctor connects with asyncpg",
    )


def test_that_cannot_be_met(newest):
    """A server of another kind than the address asks for is no server for it."""
    found = diagnose(f"{as_role(newest, 'app')}?target_session_attrs=standby")
    assert "standby" in found.PG024.evidence


def test_beside_options(newest):
    """What is said with --option wins over the address, and takes nothing else away."""
    found = diagnose(f"{as_role(newest, 'app')}?{PARAMETERS}", options={"application_name": "payments"})
    assert found.evidence.settings[0].application_name == "payments"
    assert found.evidence.server.timeouts["statement_timeout"] == 7


def test_in_place_of_an_address(newest):
    """Role, password, host, port and database may stand among the parameters."""
    words = f"user=app&password=hers-and-hers-alone&host={newest.host}&port={newest.port}&dbname=small"
    found = diagnose(f"postgresql:///?{words}")
    assert found.evidence.server.role == "app"
    assert "role app can have 6 connections" in found.PG002.evidence


@pytest.mark.parametrize("version", ["1.18", "1.24"])
def test_through_a_pooler(bouncers, version):
    """PG008: a pooler that refuses `options` is a finding, and everything else is still found."""
    found = diagnose(f"{as_role(bouncers(version, 'transaction'), 'app')}?{PARAMETERS}")
    assert found.PG008.evidence.startswith("the pooler said: unsupported startup parameter")
    assert "PG006" in found.codes


def test_of_an_engine_on_libpq(newest, module):
    """What an engine on libpq is given, in its address or beside it, is done with asyncpg as far as that can."""
    text = ENGINE.replace("create_async_engine", "create_engine").replace("sqlalchemy.ext.asyncio", "sqlalchemy")
    url = f"{as_role(newest, 'app')}?application_name=orders&sslmode=prefer&connect_timeout=5"
    more = "connect_args={'options': '-c statement_timeout=7s', 'keepalives': 1}"
    name = module(text.format(url=url, options=more).replace("+asyncpg", "+psycopg"))
    found = diagnose(f"{name}:engine")
    assert found.evidence.server.timeouts["statement_timeout"] == 7
    assert found.evidence.settings[0].application_name == "orders"


def test_elsewhere(newest, module):
    """--dsn takes them, too, beside what the engine says."""
    name = module(
        ENGINE.format(url="postgresql://app@db.invalid/x", options="connect_args={'server_settings': {'lock_timeout': '3s'}}")
    )
    found = diagnose(f"{name}:engine", dsn=f"{as_role(newest, 'app')}?{PARAMETERS}")
    assert found.evidence.server.timeouts["lock_timeout"] == 3
    assert found.evidence.server.timeouts["statement_timeout"] == 7


def test_secrets():
    """A key's password is one, wherever it stands."""
    arguments = translated({"sslpassword": "swordfish", "sslkey": "a b.key"}).arguments
    assert secrets_in({**arguments, "password": "hers"}) == ["swordfish", "hers"]
    assert "swordfish" not in hushed(f"no {arguments['dsn']}")
    assert for_libpq({**arguments, "ssl": "require"}) == {"sslpassword": "swordfish", "sslkey": "a b.key", "sslmode": "require"}
