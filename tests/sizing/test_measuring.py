"""`--from`: a running service, its metrics, saved pages and servers; what is measured is what happens there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest
from doubles import older
from doubles.bouncer import PgBouncer

from sqla_poolguard._cli.embedded import EmbeddedPostgres
from sqla_poolguard._cli.size import exposition
from sqla_poolguard._cli.size import server as asking
from sqla_poolguard._cli.size.trouble import SizeError

pytestmark = pytest.mark.postgres

SERVER = ("--max-connections", 100)
LOAD = ("--rate", 100, "--hold", "30ms")


@pytest.fixture(scope="module")
def service(server):
    """Give the address of a service that has worked for a while."""
    script = Path(__file__).with_name("service.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-W", "ignore", str(script), server.url()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            while fetched(f"{address}/debug/")["pools"][0]["granted"] < 50:
                time.sleep(0.05)
            yield address
        finally:
            process.kill()


def fetched(url):
    """Give a debug page."""
    request = urllib.request.Request(url, headers={"accept": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_debug_page_of_a_running_service(size, service):
    """Rate and hold by Little's law, and what is spent outside from what the pool has found; two processes do as much each."""
    answer = size.answer("--from", f"{service}/debug/", "--watch", "3s", *SERVER, "--workers", 2)
    assert {"pid", "since"} <= fetched(f"{service}/debug/").keys()  # by which it is seen that several answer
    load = answer["load"]
    assert 2 * 10 < load["checkouts_per_second"] < 2 * 80
    assert 0.07 < load["hold_seconds"] < 1.0
    assert 0.03 < load["outside_seconds"] < load["hold_seconds"]
    assert "looks" in answer["measured"][0]["notes"][0]
    assert answer["sensitivity"][1]["what"] == "given back before the outside call"


def test_metrics_of_a_running_service(size, service):
    """The histogram of hold times: its mean is exact, so the load is played through."""
    answer = size.answer("--from", f"{service}/metrics", "--watch", "3s", *SERVER)
    assert 10 < answer["load"]["checkouts_per_second"] < 80
    assert 0.095 < answer["load"]["hold_seconds"] < 1.0
    assert answer["simulated"]


def test_several_pools_have_to_be_told_apart(size, service):
    """By name; one that is not there is refused with those that are."""
    unnamed = size.run("--from", f"{service}/both/", *SERVER)
    assert unnamed.returncode == 2
    assert "several pools; choose one with --pool: 'orders', 'reports'" in unnamed.stderr
    wrong = size.run("--from", f"{service}/metrics", "--watch", "0s", "--pool", "payments", *SERVER)
    assert "knows no pool 'payments'; choose one with --pool: 'orders'" in wrong.stderr
    idle = size.run("--from", f"{service}/both/", "--pool", "reports", "--watch", "0.3s", *SERVER)
    assert "0 checkouts in 0." in idle.stderr
    assert "are too few to tell; watch it under load, or for longer (--watch 60s)" in idle.stderr


def test_saved_pages(size, service, tmp_path):
    """Ten or more of one process, in whatever order; fewer tell a rate and no hold, and one alone not even that."""
    files = []
    for number in range(12):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(fetched(f"{service}/debug/")))
        time.sleep(0.2)
    shuffled = [part for file in (*files[6:], *files[:6]) for part in ("--from", file)]
    answer = size.answer(*shuffled, *SERVER)
    assert 10 < answer["load"]["checkouts_per_second"] < 80
    assert 0.03 < answer["load"]["hold_seconds"] < 1.0
    two = size.run("--from", files[0], "--from", files[-1], *SERVER)
    assert two.returncode == 2
    assert "they tell a rate (" in two.stderr
    assert "and no hold time: 2 looks are too few; give --hold, or 10 looks or more" in two.stderr
    given = size.answer("--from", files[0], "--from", files[-1], "--hold", "30ms", *SERVER)
    assert given["load"]["hold_seconds"] == pytest.approx(0.03)
    alone = size.run("--from", files[0], *SERVER)
    assert "one saved debug page tells no rate" in alone.stderr
    (tmp_path / "other.json").write_text("[1]")
    assert "is no saved debug page" in size.run("--from", tmp_path / "other.json", *SERVER).stderr
    (tmp_path / "other.json").write_text('{"at": "now", "pools": [{"pool": 1}]}')
    assert (
        "2 saved debug pages cannot be understood"
        in size.run("--from", files[0], "--from", tmp_path / "other.json", *SERVER).stderr
    )
    pages = [json.loads(file.read_text()) for file in files[:2]]
    pages[1]["pools"][0]["granted"] = 1
    files[1].write_text(json.dumps(pages[1]))
    assert "started anew" in size.run("--from", files[0], "--from", files[1], *SERVER).stderr
    assert "several answer by turns" in size.run(*shuffled, *SERVER).stderr  # the last has more than the first
    idle = [json.loads(file.read_text()) for file in files]
    for page in idle:
        page["pools"][0] |= {"used": 0, "granted": 0 if page is idle[0] else 1000}
    for file, page in zip(files, idle, strict=True):
        file.write_text(json.dumps(page))
    assert "at none of 12 looks a connection was out; give --hold" in size.run(*shuffled, *SERVER).stderr
    for change in ({"pid": 1}, {"since": "another time"}):
        files[-1].write_text(json.dumps(idle[-1] | change))
        assert "several answer by turns" in size.run(*shuffled, *SERVER).stderr


@pytest.mark.parametrize("started", [("1.5", "1.5"), ("1.5", "2.5")])
def test_metrics_of_several_processes(started):
    """Each look is compared with the one before it: fewer than before, or another start, are of another process."""

    def shown(number, start):
        name = exposition.NAME
        return f'process_start_time_seconds {start}\n{name}_bucket{{le="+Inf"}} {number}\n{name}_sum {number}\n{name}_count {number}\n'

    less = 500 if started[0] == started[1] else 0
    answers = [shown(1000 + less * (each % 2) + each, started[each == 7]) for each in range(20)]
    with pytest.raises(SizeError, match="several answer by turns"):
        exposition.scrape(iter(answers).__next__, shown(1, started[0]), 0.0, None, "here")
    answers = [shown(1000 + each, started[0]) for each in range(20)]
    assert exposition.scrape(iter(answers).__next__, shown(1, started[0]), 0.0, None, "here").of_one


def test_address_that_is_nothing_we_know(size, service):
    """A page of another kind, and one that is not there."""
    assert "/debug cannot be read" in size.run("--from", "http://127.0.0.1:1/debug", *SERVER).stderr
    gone = size.run("--from", f"{service}/nowhere", *SERVER)
    assert "answers 404; the debug page shows itself to the same machine only" in gone.stderr
    silent = size.run("--from", f"{service}/debug/?format=html", *SERVER)
    assert silent.returncode == 2
    assert silent.stderr


@pytest.fixture(scope="module")
def old():
    """A PostgreSQL 15, which knows no reserve for roles."""
    with EmbeddedPostgres(max_connections=60, bindir=older.bindir()) as started:
        yield started


@pytest.fixture(scope="module", params=["server", "old"])
def asked(request):
    """Give a server with a plain role, and the figures it should tell."""
    given = request.getfixturevalue(request.param)
    with psycopg.connect(given.url("postgresql"), autocommit=True) as admin:
        admin.execute("CREATE ROLE shop LOGIN PASSWORD 'secret'")
        admin.execute("CREATE ROLE narrow LOGIN PASSWORD 'secret' CONNECTION LIMIT 12")
    return given, 60 - 3 - (4 if request.param == "server" else 0)


def url_of(server, role, password="secret"):
    """Give a URL as an application has it."""
    return f"postgresql+asyncpg://{role}:{password}@{server.host}:{server.port}/postgres"


def test_limits_of_a_server(size, asked):
    """Those of the role, with what the others have at the moment."""
    server, room = asked
    with psycopg.connect(server.url("postgresql")), psycopg.connect(server.url("postgresql")):
        plain = size.answer("--from", url_of(server, "shop"), *LOAD)["server"]
        narrow = size.answer("--from", url_of(server, "narrow"), *LOAD)["server"]
    assert (plain["room"], plain["bound"], narrow["room"], narrow["bound"]) == (room, "max_connections", 12, "role")
    assert plain["others"] >= 2
    assert plain["usable"] == room - plain["others"] - 5
    assert narrow["usable"] == 12, "other roles take nothing of this one's limit"


def test_each_limit_of_a_server_counts_its_own(size, asked):
    """The same role in another database takes of the role's limit; another role in the same database of that one's."""
    server, _ = asked
    with psycopg.connect(server.url("postgresql"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE tight CONNECTION LIMIT 20")
        elsewhere = psycopg.connect(f"postgresql://narrow:secret@{server.host}:{server.port}/template1")
        beside = psycopg.connect(f"{server.url('postgresql').rpartition('/')[0]}/tight")
        with elsewhere, beside:
            role = size.answer("--from", url_of(server, "narrow"), *LOAD)
            tight = f"{url_of(server, 'shop').rpartition('/')[0]}/tight"
            database = size.answer("--from", tight, *LOAD)["server"]
            both = size.answer("--from", tight, "--role-limit", 5, "--max-connections", 50, *LOAD)["server"]
            shown = " ".join(size.run("--from", url_of(server, "narrow"), *LOAD, COLUMNS="200").stdout.split())
    found = role["server"]
    assert (found["bound"], found["room"], found["others_of_role"], found["usable"]) == ("role", 12, 1, 11)
    assert "connections of others now, 1 of them of this role" in role["measured"][0]["notes"][0]
    assert "limit of the role 12 - 1 of others = 11 usable (of the server max_connections 60 -" in shown
    assert (database["bound"], database["room"], database["others_in_database"], database["usable"]) == ("database", 20, 1, 19)
    assert (both["bound"], both["usable"], both["max_connections"]) == ("role", 5, 50), "what is given wins"
    assert found["others"] >= 3


def test_superuser_is_told_that_it_is_one(size, asked):
    """No limit applies to it, which is of no use."""
    server, _ = asked
    answer = size.answer("--from", server.url(), *LOAD, "--others", 0)
    assert (answer["server"]["room"], answer["server"]["usable"]) == (60, 55)
    assert "this role is a superuser, to whom no limit applies: ask with the application's role" in answer["measured"][0]["notes"]


@pytest.mark.parametrize("version", ["1.18", "1.24"])
def test_server_behind_a_pooler(size, server, version):
    """It is asked through it, and the reader is told."""
    with PgBouncer(version, server) as bouncer:
        answer = size.answer("--from", bouncer.url(), *LOAD)
    assert answer["server"]["room"] == 60
    assert any("there is a pooler between" in note for note in answer["measured"][0]["notes"])


def test_server_that_says_no(size, server):
    """Its words, and never the password."""
    done = size.run("--from", url_of(server, "nobody", "hush"), *LOAD)
    assert done.returncode == 2
    assert 'password authentication failed for user "nobody"' in done.stderr
    assert "hush" not in done.stderr
    assert "or give its limits with --max-connections" in done.stderr
    nobody = size.run("--from", "postgresql://a:hush@127.0.0.1:1/a", *LOAD)
    assert "Connection refused; or give its limits" in nobody.stderr


@pytest.mark.parametrize(
    "url", ["postgresql://a:hush@[::1/db", "postgresql://a:hush@host:port/db", "postgresql://a:hush@/db?host=%zz"]
)
def test_url_that_cannot_be_read(size, url):
    """It is not repeated: there is a password in it."""
    done = size.run("--from", url, *LOAD)
    assert done.returncode == 2
    assert done.stderr
    assert "hush" not in done.stderr


def test_url_as_an_application_has_it(size, asked):
    """With what only its driver understands."""
    server, room = asked
    url = f"{url_of(server, 'shop')}?ssl=prefer&prepared_statement_cache_size=0&plugin=poolguard"
    assert size.answer("--from", url, *LOAD)["server"]["room"] == room


def test_url_that_says_who_asks_in_its_parameters(size, asked):
    """As libpq and asyncpg take them; what is given twice is refused."""
    server, room = asked
    place = f"postgresql://{server.host}:{server.port}/postgres"
    assert size.answer("--from", f"{place}?user=narrow&password=secret", *LOAD)["server"]["room"] == 12 < room
    parts = f"host={server.host}&port={server.port}&user=narrow&password=secret&database=postgres"
    assert size.answer("--from", f"postgresql:///?{parts}", *LOAD)["server"]["room"] == 12
    twice = size.run("--from", f"{place}?user=shop&user=narrow&password=secret", *LOAD)
    assert twice.returncode == 2
    assert "the URL has user more than once" in twice.stderr
    assert "secret" not in twice.stderr


def test_server_that_says_nothing(size, monkeypatch):
    """It is not waited for for ever."""
    monkeypatch.setattr(asking, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as stalled:
        done = size.run("--from", f"postgresql://a:hush@127.0.0.1:{stalled.getsockname()[1]}/a", *LOAD)
    assert done.returncode == 2
    assert "the server did not answer in 0.5 s; give its limits instead, with --max-connections" in done.stderr


def test_driver_that_is_not_installed(size, monkeypatch):
    """The reader is told which extra brings it."""
    monkeypatch.setitem(sys.modules, "sqla_poolguard._cli.size.server", None)
    done = size.run("--from", "postgresql://localhost/orders", *LOAD)
    assert done.returncode == 2
    assert 'pip install "sqla-poolguard[cli]"' in done.stderr
