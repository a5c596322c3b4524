"""What is ready to paste works when it is pasted: the engine, and with real PgBouncers the configuration that goes with it."""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from doubles.bouncer import PgBouncer
from sqlalchemy import text

from sqla_poolguard import snapshot

pytestmark = pytest.mark.postgres

WORKER = Path(__file__).with_name("worker.py")
CROWD = ("--max-connections", 100, "--replicas", 50, "--workers", 4, "--rate", 50, "--hold", "20ms", "--deadline", "40s")
PROCESSES, EACH = 3, 8 * 12


class Printed(PgBouncer):
    """A PgBouncer with the configuration that was printed; only the addresses are ours."""

    def __init__(self, version, server, ini):
        super().__init__(version, server, users={"app": "p"})
        self.ini = ini

    def _ini(self, users):
        printed = self.ini.replace("port=5432", f"port={self.server.port}").replace(
            "listen_port = 6432", f"listen_port = {self.port}"
        )
        assert "/etc/pgbouncer/userlist.txt" in printed
        return printed.replace("/etc/pgbouncer/userlist.txt", str(users)) + "unix_socket_dir =\nadmin_users = postgres\n"


@pytest.fixture(scope="module")
def orders(server):
    """Make the role and the database that the printed addresses name."""
    with psycopg.connect(server.url("postgresql"), autocommit=True) as admin:
        admin.execute("CREATE ROLE app LOGIN PASSWORD 'p'")
        admin.execute("CREATE DATABASE orders OWNER app")


@pytest.mark.usefixtures("orders")
async def test_engine_for_a_server(size, server):
    """It connects, and the pool is as large as was said, and no larger."""
    answer = size.answer("--rate", 400, "--hold", "30ms", "--max-connections", 100, "--workers", 4)
    made = {}
    exec(answer["engine"].replace("app@localhost:5432", f"app:p@{server.host}:{server.port}"), made)
    engine = made["engine"]
    try:
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT current_database()"))).scalar() == "orders"
        seen = snapshot(engine)
        assert (seen.pool_size, seen.max_overflow, engine.pool.timeout()) == (5, 0, 1.0)
    finally:
        await engine.dispose()


def work(engine, bouncer, folder):
    """Let several processes work with the engine as it was printed; give what all of them saw."""
    code = folder / "engine.py"
    assert "app@localhost:6432" in engine
    code.write_text(engine.replace("app@localhost:6432", f"app:p@{bouncer.host}:{bouncer.port}"))
    command = [sys.executable, "-P", str(WORKER), str(code)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    seen = []
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        seen.append(json.loads(out))
    return seen


@pytest.mark.parametrize("version", ["1.18", "1.24"])
@pytest.mark.usefixtures("orders")
def test_pooler_and_the_engine_that_goes_with_it(size, server, version, tmp_path):
    """Three processes at once: every transaction ends well, every answer is right, and the server sees as many connections as was said."""
    answer = size.answer(*CROWD, "--pgbouncer", version)
    assert answer["verdict"] == "needs a pooler"
    with Printed(version, server, answer["pgbouncer"]) as bouncer:
        seen = work(answer["engine"], bouncer, tmp_path)
        url = bouncer.url("postgresql", "pgbouncer")
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
            config = {row[0]: row[1] for row in console.execute("SHOW CONFIG")}
    assert [(each["fine"], each["wrong"], each["errors"]) for each in seen] == [(EACH, 0, [])] * PROCESSES
    assert int(config["default_pool_size"]) == answer["shared"]
    assert int(config["max_db_connections"]) == answer["server"]["usable"]
    assert int(config["max_client_conn"]) >= answer["total"]
    assert float(config["query_wait_timeout"]) == answer["suggested"]["pool_timeout"]


@pytest.mark.usefixtures("orders")
def test_engine_for_a_new_pooler_fails_on_an_old_one(size, server, tmp_path):
    """So that the test above is known to notice: before 1.21 the plain engine gets errors, or wrong answers."""
    new, old = (size.answer(*CROWD, "--pgbouncer", version) for version in ("1.24", "1.18"))
    with Printed("1.18", server, old["pgbouncer"]) as bouncer:
        seen = work(new["engine"], bouncer, tmp_path)
    assert sum(len(each["errors"]) + each["wrong"] for each in seen) > 0


def test_configuration_has_no_line_that_an_old_pooler_does_not_know(size):
    """PgBouncer refuses to start with one."""
    ini = configparser.ConfigParser()
    ini.read_string(size.answer(*CROWD, "--pgbouncer", "1.20")["pgbouncer"])
    assert "max_prepared_statements" not in ini["pgbouncer"]
    assert ini["pgbouncer"]["pool_mode"] == "transaction"


def test_both_waits_together_are_within_the_deadline(size, server):
    """The pool's and the pooler's, who takes parts of a second."""
    answer = size.answer(*CROWD[:-2], "--deadline", "1s", "--pgbouncer", "1.18")
    assert answer["suggested"]["pool_timeout"] == 0.25
    with Printed("1.18", server, answer["pgbouncer"]) as bouncer:
        url = bouncer.url("postgresql", "pgbouncer")
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
            config = {row[0]: row[1] for row in console.execute("SHOW CONFIG")}
    assert float(config["query_wait_timeout"]) == 0.25
