"""What `poolguard` says where it cannot run, and that it leaves nothing behind where it is stopped."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time

import asyncpg
import pytest

from sqla_poolguard._cli.embedded import EmbeddedPostgres

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r} or name.startswith({name!r} + "."):
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Blocker())
sys.argv[0] = "poolguard"
from sqla_poolguard.__main__ import main
main()
"""


@pytest.fixture
def closed_port():
    """A port on which nobody listens."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield unheard.getsockname()[1]


def assert_one_sentence(done, *words):
    """Exit status 2, one line on standard error, no trace."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("poolguard: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("dsn", ["nonsense", "mysql://host/database", "postgresql://host:port/database", ""])
def test_dsn_of_another_kind(poolguard, dsn):
    """What is no address of a PostgreSQL is refused with an example."""
    assert_one_sentence(poolguard.run("demo", "--dsn", dsn), "--dsn wants", "postgresql://user:password@host:5432/database")


def test_dsn_where_nobody_listens(poolguard, closed_port):
    """An unreachable server is named, its password is not."""
    done = poolguard.run("demo", "--dsn", f"postgresql://someone:secret@127.0.0.1:{closed_port}/orders")
    assert_one_sentence(done, f"127.0.0.1:{closed_port}/orders", "Connect call failed")
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "dsn", ["postgresql://me:sec@secret@127.0.0.1:{}/orders", "postgresql://me:secret@/orders?host=127.0.0.1:{}"]
)
def test_dsn_is_shown_without_what_is_secret(poolguard, closed_port, dsn):
    """A password that was not escaped is not taken for a host, and the host that is used is the one that is named."""
    done = poolguard.run("demo", "--dsn", dsn.format(closed_port))
    assert_one_sentence(done, f"at 127.0.0.1:{closed_port}/orders")
    assert "secret" not in done.stdout + done.stderr


def test_dsn_that_asks_for_poolguard(poolguard, postgres_url):
    """The README's URL plugin in --dsn is no trouble: the demo has pools of its own."""
    done = poolguard.run("demo", "--quick", "--act", "leak", "--dsn", f"{postgres_url}?plugin=poolguard&poolguard_hold_warning=2")
    assert done.returncode == 0, done.stdout + done.stderr


def test_dsn_with_too_little_room(poolguard):
    """A server, a role or a database that allows fewer connections than the demo opens is named before an act begins."""
    with EmbeddedPostgres() as server:
        url = server.url("postgresql")

        async def limit():
            connection = await asyncpg.connect(url)
            for command in (
                "CREATE ROLE low LOGIN PASSWORD 'low' CONNECTION LIMIT 3",
                "CREATE ROLE plain LOGIN PASSWORD 'plain'",
                "CREATE DATABASE small CONNECTION LIMIT 2",
            ):
                await connection.execute(command)
            await connection.close()

        asyncio.run(limit())
        where = url.rpartition("@")[2].rpartition("/")[0]
        for who, database, room in (("low:low", "postgres", 2), ("plain:plain", "small", 1)):
            done = poolguard.run("demo", "--dsn", f"postgresql://{who}@{where}/{database}")
            assert_one_sentence(done, f"has room for {room} more connections")


def test_dsn_that_is_refused(poolguard, postgres_url):
    """A server that says no is quoted."""
    done = poolguard.run("demo", "--dsn", postgres_url.rpartition("/")[0] + "/nowhere")
    assert_one_sentence(done, 'database "nowhere" does not exist')


def test_trouble_in_json(poolguard, closed_port):
    """With --json, trouble is a document too."""
    done = poolguard.run("demo", "--json", "--dsn", f"postgresql://127.0.0.1:{closed_port}/orders")
    assert_one_sentence(done, "Connect call failed")
    document = json.loads(done.stdout)
    assert document["passed"] is False
    assert "Connect call failed" in document["error"]


def test_no_postgresql(poolguard):
    """Without a PostgreSQL to start, the remedies are named."""
    assert_one_sentence(poolguard.run("demo", POOLGUARD_PG_BINDIR="/nowhere"), "no PostgreSQL", "--dsn")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:{port}", "http://bob:secret@127.0.0.1:{port}", "localhost:{port}", "http://"]
)
def test_no_collector(poolguard, closed_port, address):
    """A collector that is not there is missed before the demo begins; its password is not told."""
    done = poolguard.run("demo", "--otlp", address.format(port=closed_port))
    assert_one_sentence(done, "--otlp")
    assert done.stdout == ""
    assert "secret" not in done.stderr


@pytest.mark.parametrize("package", ["grpc", "opentelemetry.exporter.otlp.proto.grpc"])
def test_no_grpc_exporter(poolguard, package):
    """Without the gRPC exporter, which `[demo]` does not bring, the two ways out are named."""
    program = ("-c", BLOCKED.format(name=package))
    done = poolguard.run("demo", "--otlp", "http://127.0.0.1:4317", program=program)
    assert_one_sentence(done, repr(package), 'pip install "sqla-poolguard[otel-grpc]"', "OTLP/HTTP")


@pytest.mark.parametrize("package", ["click", "rich", "httpx", "fastapi", "uvicorn", "asyncpg"])
def test_missing_extra(poolguard, package):
    """A missing package is named, and the extra that brings it."""
    done = poolguard.run("demo", program=("-c", BLOCKED.format(name=package)))
    assert_one_sentence(done, repr(package), 'pip install "sqla-poolguard[demo]"')


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [("size", "click", "cli"), ("size", "rich", "cli"), ("doctor", "asyncpg", "cli,postgresql")],
)
def test_missing_extra_of_another_command(poolguard, command, package, extra):
    """It is the extra of that command, which is smaller than the demo's."""
    arguments = ("postgresql://127.0.0.1:1/a",) if command == "doctor" else ()
    done = poolguard.run(command, *arguments, program=("-c", BLOCKED.format(name=package)))
    assert_one_sentence(done, repr(package), f'pip install "sqla-poolguard[{extra}]"')


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", [0.0, 2.5])
def test_stopped(poolguard, signum, status, after):
    """Stopped at its start or in the middle of an act, it goes without a word and takes everything with it."""
    poolguard.env.pop("COVERAGE_PROCESS_CONFIG", None)  # its tracer loses exceptions that signal handlers raise, now and then
    process = poolguard.start("demo")
    try:
        while not list(poolguard.folder.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(after)
        process.send_signal(signum)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status
    assert "Traceback" not in out + err
    assert err == ""


def test_interrupted_while_it_is_loaded(poolguard):
    """An interrupt before anything has begun ends it as any other: without a word, with the status of an interrupt."""
    done = poolguard.run("demo", program=("-c", re.sub("raise .*", "raise KeyboardInterrupt", BLOCKED).format(name="httpx")))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_killed(poolguard):
    """Killed, it can clean up nothing itself; all is gone soon nevertheless."""
    process = poolguard.start("demo", "--act", "culprit")
    while not list(poolguard.folder.iterdir()):
        time.sleep(0.01)
    time.sleep(2.5)
    process.kill()
    process.communicate()
    end = time.monotonic() + 15
    while poolguard.left_behind() and time.monotonic() < end:
        time.sleep(0.1)
