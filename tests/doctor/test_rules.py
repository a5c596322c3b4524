"""The rules on evidence made by hand: about a healthy patient each is silent, and one change makes one rule speak."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doubles.consoles import CONSOLE

from sqla_poolguard._budget import Processes, ServerLimits
from sqla_poolguard._cli.doctor.evidence import App, Circumstances, Evidence, RouteAtRisk, Settings
from sqla_poolguard._cli.doctor.rules import RULES, apply
from sqla_poolguard._cli.doctor.sights import (
    Activity,
    ConsoleDatabase,
    ConsolePool,
    Cost,
    IdleInTransaction,
    Mode,
    Pooler,
    Server,
    Trouble,
    TroubleKind,
)

ENGINE = Settings(
    source="orders:engine",
    address="db:5432/orders",
    driver="asyncpg",
    pool="QueuePool",
    pool_timeout=2,
    application_name="orders",
)
TIMEOUTS = dict.fromkeys(("idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"), 30.0)
LIMITS = ServerLimits(max_connections=100, superuser_reserved=0, version=180000)
SERVER = Server(version="18.0", role="app", limits=LIMITS, timeouts=TIMEOUTS, activity=(), idle_in_transaction=())
COST = Cost(phases=(("TCP", 0.001),), round_trip=0.001, stock_ping=0.003, own_ping=0.001)
TOLD = Circumstances(deadline=10, idle_cut=None, hold=0.02, sqlalchemy="2.1.9", asyncpg="0.32.0")
HEALTHY = Evidence(settings=(ENGINE,), circumstances=TOLD, server=SERVER, cost=COST)
POOLER = Pooler(proof="the pids differ", mode=Mode.TRANSACTION, renames=True, console=CONSOLE)
POOLED = replace(HEALTHY, pooler=POOLER, cost=replace(COST, stock_ping=None))
ROUTE = RouteAtRisk(path="GET /x", endpoint="x", file="x.py", line=1, dependency="get_session", kind="StreamingResponse")


def engine(of=HEALTHY, **changes):
    """Change the engine's settings."""
    return replace(of, settings=(replace(ENGINE, **changes),))


def server(**changes):
    """Change the server."""
    return replace(HEALTHY, server=replace(SERVER, **changes))


def told(of=HEALTHY, **changes):
    """Change what was told."""
    return replace(of, circumstances=replace(TOLD, **changes))


def pooler(**changes):
    """Change the pooler."""
    return replace(POOLED, pooler=replace(POOLER, **changes))


CHANGES = {
    "PG001": told(processes=Processes(replicas=7)),
    "PG002": server(limits=replace(LIMITS, superuser_reserved=3)),
    "PG003": server(activity=(Activity(application="reports", state=None, own_role=False, count=25),)),
    "PG004": server(idle_in_transaction=(IdleInTransaction(pid=1, application="orders", seconds=9.0),)),
    "PG005": server(timeouts={**TIMEOUTS, "statement_timeout": 0.0}),
    "PG006": POOLED,
    "PG007": pooler(renames=False, console=None),
    "PG008": pooler(rejected="unsupported startup parameter: jit"),
    "PG009": engine(POOLED, pre_ping=True),
    "PG010": engine(pre_ping=True),
    "PG011": told(idle_cut=350.0),
    "PG012": engine(pool_timeout=10),
    "PG013": engine(max_overflow=-1),
    "PG014": engine(statement_cache_size=500),
    "PG015": engine(command_timeout=30.0),
    "PG016": replace(HEALTHY, settings=(ENGINE, ENGINE)),
    "PG017": engine(null=True, bounded=False),
    "PG018": engine(application_name=None),
    "PG019": pooler(console=replace(CONSOLE, max_client_conn=14)),
    "PG020": replace(HEALTHY, apps=(App(source="app", fastapi="0.165.0", routes=1, at_risk=(ROUTE,)),)),
    "PG021": replace(HEALTHY, apps=(App(source="app", fastapi="0.165.0", routes=1, session_dependencies=("get_session",)),)),
    "PG022": told(instrumentor="0.66b1", instrumentor_refuses="<2.1.0"),
    "PG023": engine(open_connections=1),
    "PG024": replace(HEALTHY, server=None, cost=None, trouble=Trouble(kind=TroubleKind.FULL, said="too many", seconds=0.1)),
    "PG025": server(limits=replace(LIMITS, is_superuser=True)),
}
"""For each rule one change to the healthy patient; behind a pooler PG006 speaks as well, which says no more than that."""


def test_healthy():
    """Nothing is said of a patient who has nothing; behind a pooler only that there is one."""
    assert apply(HEALTHY) == []
    assert [finding.code for finding in apply(POOLED)] == ["PG006"]


def test_every_rule_is_here():
    """No rule is without its change."""
    assert list(CHANGES) == list(RULES)


@pytest.mark.parametrize("code", CHANGES)
def test_one_change_one_finding(code):
    """A rule speaks about what it is for, and no other does."""
    evidence = CHANGES[code]
    found = [finding.code for finding in apply(evidence)]
    beside = {"PG006"} if evidence.pooler is not None else set()
    assert set(found) - beside == {code} - beside
    assert code in found
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("limits", "seen"),
    [
        ({"role_limit": 30}, None),
        ({"role_limit": 19}, "1 pool of 20 = 20 server connections; role app can have 19"),
        ({"database_limit": 39}, "2 pools of 20 = 40 server connections; database orders can have 39"),
        ({"database_limit": 40}, None),
        ({"max_connections": 59}, "3 pools of 20 = 60 server connections; the server has 59 for role app"),
    ],
)
def test_each_limit_counts_the_pools_of_its_own(limits, seen):
    """PG019: a role's limit those of that user, a database's those of that database, the server's all."""
    whose = [("orders", "app"), ("orders", "other"), ("jobs", "third")]
    pools = tuple(ConsolePool(database=name, user=user, clients=1, waiting=0, longest_wait=0.0) for name, user in whose)
    databases = {name: ConsoleDatabase(server="db:5432", pool_size=20, reserve=0, most=0) for name in ("orders", "jobs")}
    evidence = replace(
        pooler(console=replace(CONSOLE, pools=pools, databases=databases)),
        server=replace(SERVER, limits=replace(LIMITS, **limits)),
    )
    assert [found.evidence for found in apply(evidence) if found.code == "PG019"] == ([seen] if seen else [])


@pytest.mark.parametrize("code", CHANGES)
def test_findings_are_complete(code):
    """What was seen, why it matters, what to do, and where: a sentence each, with numbers where there are some."""
    for finding in apply(CHANGES[code]):
        assert finding.link == f"docs/reference/doctor-rules.md#{finding.code.lower()}"
        assert all((finding.evidence, finding.why, finding.fix, finding.where, finding.title))


def test_the_worst_comes_first():
    """Errors, then warnings, then information; each by code."""
    everything = replace(
        engine(pool_timeout=None, max_overflow=-1, application_name=None, open_connections=1), server=CHANGES["PG025"].server
    )
    assert [finding.code for finding in apply(everything)] == ["PG013", "PG012", "PG023", "PG025", "PG018"]
