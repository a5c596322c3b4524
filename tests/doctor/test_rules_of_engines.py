"""What the doctor finds at engines' settings, in real modules: each rule where it must speak, and where it must be silent."""

from __future__ import annotations

import json

import pytest
from doubles.patient import ENGINE, as_role, command, diagnose

from sqla_poolguard._cli.doctor import surroundings
from sqla_poolguard._cli.doctor.finding import Severity

pytestmark = pytest.mark.postgres

NOWHERE = "postgresql://app:hers@db.invalid:5432/orders"
GUARDED = ENGINE.replace("engine =", "from sqlalchemy import NullPool\nfrom sqla_poolguard import Guard, GuardedPool\nengine =")


@pytest.fixture
def settings(module):
    """Give a function that looks at an engine's settings alone."""

    def look(options="", url=NOWHERE, **told):
        return diagnose(f"{module(GUARDED.format(url=url, options=options))}:engine", offline=True, **told)

    return look


def test_ping(server, module):
    """PG010: what a ping costs here, a warning against short holds; none without a ping. A guarded pool's is one round trip."""
    url = as_role(server, "app")
    found = diagnose(url, options={"pool_pre_ping": "true"}).PG010
    assert found.severity is Severity.INFO
    assert "(three round trips) at every checkout; a round trip takes" in found.evidence
    assert diagnose(url, options={"pool_pre_ping": "true"}, hold=0.0005).PG010.severity is Severity.WARNING
    assert "PG010" not in diagnose(url).codes
    guarded = module(GUARDED.format(url=url, options="poolclass=GuardedPool, pool_pre_ping=True"))
    assert "(one round trip)" in diagnose(f"{guarded}:engine").PG010.evidence


def test_idle_cut(settings):
    """PG011: what drops idle connections, told or known by the host's name; not where they are recycled or asked before."""
    assert settings(idle_cut=350).PG011.evidence.startswith(
        "connections are recycled never; what is in between (--idle-cut) drops"
    )
    assert "after 1800 s; " in settings("pool_recycle=1800", idle_cut=350).PG011.evidence
    proxy = "postgresql://app@orders.proxy-abc.eu-central-1.rds.amazonaws.com/orders"
    assert "RDS Proxy drops them after 1800 s" in settings("pool_recycle=1800", proxy).PG011.evidence
    azure = "postgresql://app@orders.postgres.database.azure.com/orders"
    assert "Azure's load balancer drops them after 240 s" in settings("", azure).PG011.evidence
    for quiet in ("pool_recycle=300", "pool_pre_ping=True", "poolclass=GuardedPool, guard=Guard(ping_after=30)"):
        assert "PG011" not in settings(quiet, idle_cut=350).codes
    assert "PG011" not in settings().codes


def test_patience(settings):
    """PG012: a wait that is not shorter than what the request may take, or a probe; a guarded pool's is bounded when it fails fast."""
    assert settings(deadline=10).PG012.evidence == "a request waits 30 s for a connection; a request may take 10 s"
    assert "a health probe waits 2 s" in settings("pool_timeout=3", deadline=10, probe_timeout=2).PG012.evidence
    assert "for ever" in settings("pool_timeout=None").PG012.evidence
    assert "PG012" not in settings("pool_timeout=3", deadline=10).codes
    assert "PG012" not in settings("poolclass=GuardedPool, guard=Guard(fail_fast=True)", deadline=10).codes
    assert "PG012" in settings("poolclass=GuardedPool", deadline=10).codes
    assert "PG012" not in settings().codes


@pytest.mark.parametrize("pool", ["", "poolclass=GuardedPool, "])
def test_unbounded(settings, pool):
    """PG013: no limit, in either way; a NullPool has no pool, which is something else."""
    assert settings(f"{pool}pool_size=0").PG013.evidence == "pool_size=0 is no limit, not no pool"
    assert settings(f"{pool}max_overflow=-1").PG013.evidence == "max_overflow=-1"
    assert "PG013" not in settings(f"{pool}pool_size=1, max_overflow=0").codes
    assert "PG013" not in settings("poolclass=NullPool").codes


def test_useless_cache(settings):
    """PG014: asyncpg's cache is set for speed; off, or as it is, is no such thing."""
    assert settings("connect_args={'statement_cache_size': 500}").PG014.evidence == "statement_cache_size=500"
    assert "PG014" not in settings("connect_args={'statement_cache_size': 0}").codes
    assert "PG014" not in settings().codes


def test_order_of_timeouts(server):
    """PG015: the driver's time limit against the server's, for this role."""
    assert "statement_timeout is off" in diagnose(as_role(server, "app"), options={"command_timeout": "5"}).PG015.evidence
    assert "statement_timeout is 30 s" in diagnose(as_role(server, "bounded"), options={"command_timeout": "30"}).PG015.evidence
    assert "PG015" not in diagnose(as_role(server, "bounded"), options={"command_timeout": "35"}).codes
    assert "PG015" not in diagnose(as_role(server, "bounded")).codes


def test_several_engines(module):
    """PG016: two engines of one process for one server; one for each of two servers is as it should be."""
    two = ENGINE.format(url=NOWHERE, options="") + "other = create_async_engine(engine.url, pool_size=3, max_overflow=0)\n"
    found = diagnose(f"{module(two)}:engine", offline=True)
    assert found.PG016.evidence == "2 engines of this process lead to it, with 18 connections together"
    assert found.PG016.where == "db.invalid:5432"
    apart = two.replace("(engine.url,", "(engine.url.set(host='elsewhere.invalid'),")
    assert "PG016" not in diagnose(f"{module(apart)}:engine", offline=True).codes


def test_engines_that_share_a_pool(newest, module):
    """PG016 and PG001: what execution_options() gives has the pool of the engine that it was asked of, and is counted once."""
    more = "autocommit = engine.execution_options(isolation_level='AUTOCOMMIT')\nboth = autocommit.execution_options(logging_token='x')\n"
    name = module(ENGINE.format(url=as_role(newest, "app"), options="pool_size=20, max_overflow=0") + more)
    for which in ("engine", "both"):
        found = diagnose(f"{name}:{which}")
        assert found.codes & {"PG001", "PG016"} == set()
        assert len(found.evidence.settings) == 1
    other = "other = create_async_engine(engine.url)\nother_too = other.execution_options(logging_token='y')\n"
    twice = module(ENGINE.format(url=NOWHERE, options="") + more + other)
    assert diagnose(f"{twice}:both", offline=True).PG016.evidence.startswith("2 engines of this process")


def test_several_engines_count_together(newest, module):
    """PG001: the engines of a process that lead to one server are counted together."""
    url = as_role(newest, "app")
    two = (
        ENGINE.format(url=url, options="pool_size=20") + "other = create_async_engine(engine.url, pool_size=10, max_overflow=0)\n"
    )
    found = diagnose(f"{module(two)}:engine")
    assert found.PG001.evidence.startswith(
        "(20+10 + 10+0) x 1 process (nobody said how many: --replicas, --workers) = 40 connections"
    )


def test_no_pool(server, module, monkeypatch):
    """PG017: a connect for every session, with what one takes here; in a function as a service it is right."""
    name = module(GUARDED.format(url=as_role(server, "app"), options="poolclass=NullPool"))
    assert "NullPool connects anew for every session: " in diagnose(f"{name}:engine").PG017.evidence
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    assert "PG017" not in diagnose(f"{name}:engine").codes
    monkeypatch.undo()
    assert "PG017" not in diagnose(as_role(server, "app")).codes


def test_no_pool_behind_a_pooler(bouncers, module):
    """PG017: before a pooler a connect is cheap."""
    name = module(GUARDED.format(url=as_role(bouncers("1.24", "transaction"), "app"), options="poolclass=NullPool"))
    assert "PG017" not in diagnose(f"{name}:engine").codes


def test_name(settings):
    """PG018: none, or one that the server cuts off."""
    named = "connect_args={{'server_settings': {{'application_name': '{}'}}}}"
    assert settings().PG018.evidence == "no application_name"
    assert "has 64 bytes" in settings(named.format("ä" * 32)).PG018.evidence
    assert "PG018" not in settings(named.format("orders")).codes


def test_open_before_fork(newest, module, monkeypatch):
    """PG023: what an import has opened; an error where workers are forked after it. A guarded pool knows forks by itself."""
    text = GUARDED + "import asyncio\nasync def warm():\n    async with engine.connect():\n        pass\nasyncio.run(warm())\n"
    close = "asyncio.run(engine.dispose())\n"
    url = as_role(newest, "app")
    stock = f"{module(text.format(url=url, options=''))}:engine"

    def found(name):
        document = json.loads(command(name, "--offline", "--json").stdout)
        return [(one["severity"], one["evidence"]) for one in document["findings"] if one["code"] == "PG023"]

    said = "1 connection open when the module had been imported"
    assert found(stock) == [("warning", said)]
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--bind :80 --preload")
    assert found(stock) == [("error", f"{said}, and GUNICORN_CMD_ARGS forks workers after that")]
    guarded, closed = text.format(url=url, options="poolclass=GuardedPool"), text.format(url=url, options="") + close
    assert found(f"{module(guarded)}:engine") == []
    assert found(f"{module(closed)}:engine") == []


@pytest.mark.parametrize(
    ("refuses", "instrumented", "options", "found"),
    [
        ("<2.1.0", False, "", "is for sqlalchemy <2.1.0; installed is "),
        (None, True, "", "instruments every engine of the process"),
        (None, False, "", None),
    ],
)
def test_instrumentation(settings, monkeypatch, refuses, instrumented, options, found):
    """PG022: an instrumentor that refuses this SQLAlchemy, or one that counts an asyncio engine twice; silence without, and if used well."""
    assert "PG022" not in settings(options).codes
    monkeypatch.setattr(surroundings, "_instrumentor", lambda: (refuses, "0.66b1"))
    monkeypatch.setattr(surroundings, "_instrumented", lambda: instrumented)
    findings = settings(options)
    assert (found is None) == ("PG022" not in findings.codes)
    if found is not None:
        assert found in findings.PG022.evidence
