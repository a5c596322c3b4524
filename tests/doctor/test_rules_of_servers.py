"""What the doctor finds at a server itself, PostgreSQL new and old: each rule where it must speak, and where it must be silent."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import AsyncExitStack

import pytest
from doubles import bouncer, debian
from doubles.patient import ENGINE, PASSWORDS, as_role, diagnose, opened

from sqla_poolguard._budget import Bound
from sqla_poolguard._cli.doctor import server as look_at
from sqla_poolguard._cli.doctor.finding import Severity
from sqla_poolguard._cli.embedded import EmbeddedPostgres

pytestmark = pytest.mark.postgres


def meanwhile(sessions, look):
    """Look while sessions are there: (URL, application, statements) for each."""

    async def do():
        async with AsyncExitStack() as stack:
            for url, application, *statements in sessions:
                settings = {"application_name": application}
                connection = await stack.enter_async_context(opened(url, server_settings=settings))
                for statement in statements:
                    await connection.execute(statement)
            return await asyncio.to_thread(look)

    return asyncio.run(do())


def test_budget(server):
    """PG001: the pools at peak against what the role can have, and nothing where they fit."""
    url = as_role(server, "app")
    over = diagnose(url, options={"pool_size": "10", "max_overflow": "0"}, counts={"replicas": 2, "workers": 2})
    assert over.PG001.severity is Severity.ERROR
    seen = (
        "10+0 x 4 processes at peak (--replicas 2 --workers 2) = 40 connections; usable are 37 (max_connections = 40, 3 of them"
    )
    assert over.PG001.evidence.startswith(seen)
    assert "PG001" not in diagnose(url, options={"pool_size": "9", "max_overflow": "0"}, counts={"replicas": 4}).codes
    rollout = diagnose(url, options={"pool_size": "9", "max_overflow": "0"}, counts={"replicas": 3, "surge": "50%"})
    assert rollout.PG001.evidence.startswith("9+0 x 5 processes at peak (--replicas 3 --surge 50%) = 45 connections")
    assert "PG001" not in diagnose(url).codes


def test_budget_of_a_role_and_of_a_database(server):
    """PG001 and PG002: a CONNECTION LIMIT of the role, or of the database, is less than the server's."""
    role = diagnose(as_role(server, "few"))
    assert "usable are 4 (the role's CONNECTION LIMIT; max_connections is 40)" in role.PG001.evidence
    assert "(nobody said how many: --replicas, --workers)" in role.PG001.evidence
    assert role.evidence.server.limits.room.bound is Bound.ROLE
    database = diagnose(as_role(server, "app", "small"), options={"pool_size": "7", "max_overflow": "0"})
    assert "usable are 6 (the database's CONNECTION LIMIT" in database.PG001.evidence
    assert "role app can have 6 connections" in database.PG002.evidence
    assert "PG001" not in diagnose(as_role(server, "app", "small"), options={"pool_size": "6", "max_overflow": "0"}).codes


def test_budget_beside_others(server):
    """PG001: what others have now is a warning, where it can be told which sessions are others'."""
    options = {"pool_size": "35", "max_overflow": "0"}
    url, others = as_role(server, "app"), [(server.url("postgresql"), "reports")] * 3
    named = meanwhile(others, lambda: diagnose(url, options={**options, "application_name": "orders"}))
    assert named.PG001.severity is Severity.WARNING
    assert "of which others have 3 now: 34 are left" in named.PG001.evidence
    unnamed = meanwhile(others, lambda: diagnose(url, options=options))
    assert "of which others have 3 now: 34 are left" in unnamed.PG001.evidence, "who has another role is somebody else"
    alike = meanwhile([(as_role(server, "app"), "reports")] * 3, lambda: diagnose(url, options=options))
    assert "PG001" not in alike.codes


def test_budget_of_a_role_beside_others(server):
    """PG001: other roles take nothing of a role's limit, nor of a database's what is in another; their own others do."""
    options = {"pool_size": "4", "max_overflow": "0", "application_name": "orders"}
    strangers = [(server.url("postgresql"), "reports")] * 3
    assert "PG001" not in meanwhile(strangers, lambda: diagnose(as_role(server, "few"), options=options)).codes
    small = as_role(server, "app", "small")
    assert "PG001" not in meanwhile(strangers, lambda: diagnose(small, options={**options, "pool_size": "6"})).codes
    alike = meanwhile([(as_role(server, "few"), "reports")], lambda: diagnose(as_role(server, "few"), options=options))
    assert "usable are 4 (the role's CONNECTION LIMIT" in alike.PG001.evidence
    assert "of which others have 1 now: 3 are left" in alike.PG001.evidence
    there = meanwhile([(small, "reports")], lambda: diagnose(small, options={**options, "pool_size": "6"}))
    assert (
        "the database's CONNECTION LIMIT; max_connections is 40), of which others have 1 now: 5 are left" in there.PG001.evidence
    )


def test_usable(server):
    """PG002: what the server keeps from a role; nothing is kept from a superuser."""
    found = diagnose(as_role(server, "app"))
    assert found.PG002.severity is Severity.INFO
    assert found.PG002.evidence == "role app can have 37 connections (max_connections = 40, 3 of them reserved for others)"
    assert "PG002" not in diagnose(server.url("postgresql")).codes


def test_in_use(server):
    """PG003: who has much of the server, without any right to look; nothing where there is much left."""
    url = as_role(server, "app")
    mine = [(url, "orders")] * 4
    assert "PG003" not in meanwhile(mine, lambda: diagnose(url)).codes
    theirs = [(server.url("postgresql"), "reports")] * 11
    much = meanwhile(theirs, lambda: diagnose(url))
    assert much.PG003.severity is Severity.INFO
    assert much.PG003.evidence == "11 of 37 slots are taken: 11 x reports (state hidden)"
    assert much.evidence.server.hidden == 11
    assert "what 11 sessions of other roles are doing: that needs GRANT pg_read_all_stats" in much.evidence.unseen
    full = meanwhile([*theirs, *[(url, "orders")] * 20], lambda: diagnose(url))
    assert full.PG003.severity is Severity.WARNING
    assert "31 of 37 slots are taken: 20 x orders (idle), 11 x reports" in full.PG003.evidence


def test_idle_in_transaction(server):
    """PG004: sessions of the same role that sit in a transaction; not one that works, and not one that has just begun."""
    url = as_role(server, "app")
    sitting = [(url, "orders", "BEGIN", "SELECT 1")]
    found = meanwhile(sitting, lambda: (time.sleep(0.1), diagnose(url, idle_in_transaction=0.05))[1])
    assert found.PG004.severity is Severity.WARNING
    assert found.PG004.evidence.startswith("1 session: orders (pid ")
    assert "PG004" not in meanwhile(sitting, lambda: diagnose(url)).codes
    assert "PG004" not in meanwhile([(url, "orders", "SELECT 1")], lambda: diagnose(url, idle_in_transaction=0)).codes


def test_idle_in_transaction_of_others_is_hidden(server):
    """PG004: what other roles do cannot be seen, and that is said."""
    found = meanwhile([(server.url("postgresql"), "r", "BEGIN")], lambda: diagnose(as_role(server, "app"), idle_in_transaction=0))
    assert "PG004" not in found.codes
    assert any("pg_read_all_stats" in sentence for sentence in found.evidence.unseen)
    assert (
        "PG004"
        in meanwhile(
            [(as_role(server, "app"), "r", "BEGIN")], lambda: diagnose(server.url("postgresql"), idle_in_transaction=0)
        ).codes
    )


def test_time_limits(server):
    """PG005: what is off for this very role; a role that has them all is left alone."""
    off = diagnose(as_role(server, "app")).PG005
    assert off.severity is Severity.WARNING
    assert "idle_in_transaction_session_timeout, statement_timeout" in off.evidence
    assert ("transaction_timeout," in off.evidence.replace("idle_in_transaction", "").replace("_session", "")) == (
        not server.version.startswith("15.")
    )
    assert "PG005" not in diagnose(as_role(server, "bounded")).codes


def test_some_time_limits(server, module):
    """PG005: information only, where the two that matter are on; the driver's command_timeout stands for one of them."""
    name = module(
        ENGINE.format(url=as_role(server, "bounded"), options="connect_args={'server_settings': {'lock_timeout': '0'}}")
    )
    found = diagnose(f"{name}:engine").PG005
    assert (found.severity, found.evidence) == (Severity.INFO, "off for this role: lock_timeout")
    assert ", statement_timeout" not in diagnose(as_role(server, "app"), options={"command_timeout": "5"}).PG005.evidence


def test_superuser(server):
    """PG025: an engine whose role is a superuser."""
    assert diagnose(server.url("postgresql")).PG025.severity is Severity.WARNING
    assert "PG025" not in diagnose(as_role(server, "app")).codes


def test_cost(server):
    """A connect is measured phase by phase, and a ping in round trips: SQLAlchemy's takes about three of ours."""
    found = diagnose(as_role(server, "app"))
    names = [name for name, _ in found.evidence.cost.phases]
    assert names[:2] == ["driver", "TCP"]
    assert names[-4:] == ["authentication", "session start", "first query", "same query again"]
    assert all(seconds > 0 for _, seconds in found.evidence.cost.phases)
    assert found.evidence.cost.stock_ping / found.evidence.cost.own_ping > 1.5


def self_signed(folder, name):
    """Make a key and a certificate."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    wanted = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    subprocess.run([shutil.which("openssl") or debian.openssl(), "req", "-x509", *wanted], check=True, capture_output=True)
    key.chmod(0o644)
    return key, certificate


def test_tls(newest, tmp_path):
    """TLS is a phase of its own, and its version is told; where it was asked for and not had, that is said."""
    (key, certificate), (_, other) = self_signed(tmp_path, "own"), self_signed(tmp_path, "other")
    tmp_path.chmod(0o755)
    own = {"client_tls_sslmode": "require", "client_tls_key_file": key, "client_tls_cert_file": certificate}
    own["client_tls_ca_file"] = certificate
    with bouncer.PgBouncer("1.24", newest, users=PASSWORDS, settings=own) as encrypted:
        cost = diagnose(f"{as_role(encrypted, 'app')}?sslmode=require").evidence.cost
        mine = shutil.copy(key, tmp_path / "mine.key")
        mine.chmod(0o600)  # or libpq would not read it
        trusted = f"sslmode=verify-ca&sslrootcert={certificate}&sslcert={certificate}&sslkey={mine}"
        admin = diagnose(f"{encrypted.url('postgresql')}?{trusted}").evidence
        stranger = diagnose(f"{as_role(encrypted, 'app')}?sslmode=verify-ca&sslrootcert={other}")
        missing = diagnose(f"{as_role(encrypted, 'app')}?sslmode=verify-ca&sslrootcert=/no/such/file")
    assert [name for name, _ in cost.phases][:5] == ["driver", "TCP", "TLS", "authentication", "session start"]
    assert cost.tls.startswith("TLSv1.")
    assert admin.trouble is None
    assert admin.pooler.console.version.startswith("1.24.")
    assert "certificate verify failed" in stranger.PG024.evidence
    assert "No such file" in missing.PG024.evidence
    plain = diagnose(as_role(newest, "app")).evidence.cost
    assert [name for name, _ in plain.phases][2] == "TLS asked for, not had"
    assert plain.tls is None


def test_name_server_that_does_not_answer(monkeypatch):
    """A host's name that cannot be looked up in time holds nobody up, not even when Python ends."""
    asked = threading.Event()

    def never(*_args):
        asked.set()
        threading.Event().wait(60)

    monkeypatch.setattr("socket.getaddrinfo", never)
    began = time.monotonic()
    found = diagnose("postgresql://app@db.invalid/orders")
    assert asked.is_set()
    assert found.PG024.evidence == "silent: no answer within 2 s"
    assert time.monotonic() - began < 4.5


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_other_drivers(newest, module, driver):
    """An engine on another driver is examined as well; what is said of asyncpg is not said of it."""
    url = as_role(newest, "app", driver=f"postgresql+{driver}")
    name = module(ENGINE.format(url=url, options="pool_pre_ping=True, pool_size=40"))
    found = diagnose(f"{name}:engine")
    assert found.evidence.server.role == "app"
    assert {"PG001", "PG005"} <= found.codes
    assert ("PG010" in found.codes) == (driver == "asyncpg")


@pytest.mark.parametrize("fault", ["dead", "full", "stalled", "stalled later", "wrong password", "unknown host"])
def test_no_connection(fault, monkeypatch):
    """PG024: why there is none, in time, with what the settings tell all the same."""
    with EmbeddedPostgres(max_connections=4, settings={"superuser_reserved_connections": 0}) as own:
        url = own.url("postgresql")
        look = lambda: diagnose(url, options={"max_overflow": "-1"})  # noqa: E731 - what is looked at depends on the fault
        began = time.monotonic()
        if fault == "dead":
            own.crash()
            found, said = look(), "refused: "
        elif fault == "full":
            found, said = meanwhile([(url, "others")] * 4, look), "full: "
        elif fault == "stalled":
            for pid in own.pids():
                os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            found, said = look(), "silent: no answer within 2 s"
            for pid in own.pids():
                os.kill(pid, signal.SIGCONT)
        elif fault == "stalled later":
            stopped = []
            monkeypatch.setattr(look_at, "look_at", _stopping(stopped, look_at.look_at))
            found, said = look(), "silent: it took the connection, and then did not answer"
            os.kill(*stopped, signal.SIGCONT)
        elif fault == "wrong password":
            url = url.replace(own._password, "hers-and-hers-alone")
            found, said = look(), "denied: password authentication failed"
        else:
            url = url.replace("127.0.0.1", "nowhere.invalid")
            found, said = look(), "unknown host: "
        assert time.monotonic() - began < 4.5
    assert found.PG024.severity is Severity.ERROR
    assert found.PG024.evidence.startswith(said)
    assert "PG013" in found.codes
    assert own._password not in repr(found)
    assert PASSWORDS["app"] not in repr(found)


def test_no_pooler(server):
    """PG006 to PG009 and PG019 are silent on a direct connection."""
    found = diagnose(as_role(server, "app"), options={"pool_pre_ping": "true"})
    assert found.codes & {"PG006", "PG007", "PG008", "PG009", "PG019"} == set()
    assert found.evidence.pooler is None


def test_connection(server):
    """PG024 is silent where there is one."""
    assert "PG024" not in diagnose(as_role(server, "app")).codes


def _stopping(stopped, look):
    """Stop the process that serves a connection, then look."""

    async def stop_and_look(connection, *args):
        stopped.append(connection.get_server_pid())
        os.kill(*stopped, signal.SIGSTOP)
        return await look(connection, *args)

    return stop_and_look
