"""What is suggested, and which verdict, with which reason."""

from __future__ import annotations

import pytest

from sqla_poolguard._budget import Bound, Processes
from sqla_poolguard._hold_times import Exponential
from sqla_poolguard._plan import make_plan
from sqla_poolguard._sizing import Knee, Load, Service, Target, Verdict, deadlock_floor


def planned(*, usable=97, cores=None, processes=None, target=None, **load):
    """Size a service: 100 checkouts a second of 30 ms in one process, unless told otherwise."""
    asked = Load(**{"rate": 100.0, "holds": Exponential(0.03), **load})
    service = Service(processes=Processes(**(processes or {})), usable=usable, cores=cores)
    return make_plan(asked, Target(**(target or {})), service)


def test_plan_of_a_small_service():
    """Every figure: Little's law, the formula, the ceiling, the curve, the table."""
    plan = planned(processes={"workers": 4}, rate=400.0)
    assert (plan.rate, plan.busy) == (100.0, pytest.approx(3.0))
    assert (plan.demand, plan.floor, plan.size, plan.ceiling, plan.total) == (5, 1, 5, 24, 20)
    assert plan.wait_share == pytest.approx(0.008424, abs=1e-6)
    assert plan.verdict is Verdict.FITS
    assert plan.reason == "4 pools of 5 take 20 of 97 usable connections"
    assert [point.size for point in plan.curve] == [4, 5, 6, 7, 8, 9]
    assert [(row.size, row.total) for row in plan.sensitivity] == [(5, 20), (56, 224), (9, 36)]
    assert plan.shared < plan.total


def test_outside_call_inside_the_hold():
    """Four processes of 56 have no room; given back before the call, five each are enough: the hold is too long."""
    plan = planned(processes={"workers": 4}, rate=400.0, holds=Exponential(0.43), outside=0.4)
    assert plan.verdict is Verdict.HOLD_TOO_LONG
    assert (
        plan.reason
        == "4 pools of 56 need 224 connections, and 97 are usable; of a hold of 430 ms, 400 ms are spent outside the database"
    )
    assert plan.advice[0] == "give the connection back before the outside call, as with release(session): 5 for each pool"
    assert "24 for each pool are enough" in plan.advice[1]
    assert [(row.what, row.size) for row in plan.sensitivity[:2]] == [("as it is", 56), ("given back before the outside call", 5)]


def test_load_that_no_sharing_makes_fit():
    """Little's law alone asks for more than there is."""
    plan = planned(rate=1000.0, holds=Exponential(0.3), processes={"workers": 2})
    assert plan.verdict is Verdict.HOLD_TOO_LONG
    assert "even if all of them shared, they would need" in plan.reason
    assert plan.shared > 97


def test_rollout_that_does_not_fit():
    """With the pods of a rollout there are too many, without them not."""
    plan = planned(processes={"replicas": 10, "surge": 3, "terminating": 10}, rate=1000.0)
    assert plan.verdict is Verdict.TOO_MANY_PROCESSES
    assert plan.reason.endswith("without the replicas that a rollout adds, 10 pools take 50")
    assert plan.advice[0].startswith("roll out without surge")


def test_few_processes_too_many():
    """Half of them, each larger, have room."""
    plan = planned(processes={"workers": 40}, rate=1000.0)
    assert plan.verdict is Verdict.TOO_MANY_PROCESSES
    assert plan.size * 40 > 97
    pools = int(plan.advice[0].split()[3])
    assert 20 <= pools < 40
    fewer = planned(processes={"workers": pools}, rate=1000.0)
    assert fewer.verdict is Verdict.FITS
    assert planned(processes={"workers": pools + 1}, rate=1000.0).verdict is Verdict.TOO_MANY_PROCESSES


def test_crowd_needs_a_pooler():
    """Two hundred processes that do little have one connection each, which is too many; together they need few."""
    plan = planned(processes={"replicas": 50, "workers": 4}, rate=400.0)
    assert plan.verdict is Verdict.NEEDS_POOLER
    assert plan.ceiling == 0
    assert plan.shared <= 20
    assert f"if all of them share, {plan.shared} are enough" in plan.reason


def test_nested_checkouts_lift_the_floor():
    """Ten tasks with two connections each: eleven, whatever the load."""
    assert deadlock_floor(10, 2) == 11
    plan = planned(nesting=2, tasks=10)
    assert (plan.demand, plan.floor, plan.size) == (5, 11, 11)
    crowded = planned(nesting=3, tasks=30, processes={"workers": 2})
    assert crowded.floor == 61
    assert crowded.verdict is Verdict.NESTED
    assert crowded.reason.endswith("deadlock with less than 61, however short the holds; without nesting, 2 pools of 4 need 8")
    assert "30 tasks with 3 each can deadlock" in crowded.advice[0]
    assert crowded.advice[1] == "or let at most 23 tasks of a process nest at a time, as with an asyncio.Semaphore"
    fewer = planned(nesting=3, tasks=23, processes={"workers": 2})
    assert fewer.verdict is Verdict.FITS
    assert planned(nesting=3, tasks=24, processes={"workers": 2}).verdict is Verdict.NESTED


def test_nested_checkouts_that_no_pooler_helps():
    """Each process has too few for its load already; sharing would help the load, and deadlock."""
    plan = planned(nesting=2, tasks=10, rate=400.0, processes={"workers": 100})
    assert plan.verdict is Verdict.NESTED
    assert "if all shared, they would need 1001 so as not to deadlock, and without nesting 15" in plan.reason
    assert len(plan.advice) == 1


def test_nesting_that_is_not_to_blame():
    """The load alone has no room, and would not have if nobody nested."""
    plan = planned(nesting=2, tasks=2, rate=1000.0, holds=Exponential(0.3), processes={"workers": 2})
    assert plan.verdict is Verdict.HOLD_TOO_LONG


@pytest.mark.parametrize(
    ("bound", "words", "advice"),
    [
        (Bound.SERVER, "others, and what is kept free, take all that max_connections leaves", "raise max_connections"),
        (Bound.ROLE, "others of the same role take all that its limit leaves", "ALTER ROLE"),
        (Bound.DATABASE, "others take all that the limit of the database leaves", "ALTER DATABASE"),
    ],
)
def test_nothing_is_usable(bound, words, advice):
    """No hold is short enough for none, and no pooler helps; with outside calls, nesting and a busy server too."""
    service = Service(processes=Processes(), usable=0, bound=bound, cores=1)
    for more in ({}, {"outside": 0.02}, {"nesting": 2, "tasks": 9}, {"rate": 5000.0}):
        plan = make_plan(Load(**{"rate": 100.0, "holds": Exponential(0.03), **more}), Target(), service)
        assert plan.verdict is Verdict.NO_ROOM
        assert f"and none is usable: {words}" in plan.reason
        assert advice in plan.advice[0]


def test_more_pools_than_connections_and_too_long_holds():
    """How long they may hold is told for a pooler, since no hold is short enough for each to have its own."""
    plan = planned(rate=2000.0, holds=Exponential(0.1), processes={"workers": 120})
    assert plan.verdict is Verdict.HOLD_TOO_LONG
    assert plan.ceiling == 0
    assert "have all pools share 97 connections (PgBouncer)" in plan.advice[0]


def test_curve_shows_the_size_that_is_suggested():
    """Also where it is far above what the load needs."""
    plan = planned(nesting=2, tasks=40)
    assert (plan.demand, plan.size) == (5, 41)
    assert [point.size for point in plan.curve] == [4, 5, 6, 7, 8, 9, 41]
    assert planned(nesting=2, tasks=6).curve[-2].size == 8


def test_knee_of_the_server():
    """Beyond it connections take turns: near it a note, beyond it a verdict."""
    assert planned(cores=4, rate=200.0).advice == ()
    near = planned(cores=4, rate=400.0)
    assert near.knee == Knee(8, 16)
    assert near.verdict is Verdict.FITS
    assert "near its knee" in near.advice[0]
    beyond = planned(cores=4, rate=1000.0)
    assert beyond.verdict is Verdict.HOLD_TOO_LONG
    assert "30.0 connections at a time" in beyond.reason


def test_what_is_outside_is_not_the_servers_work():
    """A hold that waits for something else does not bring the server to its knee."""
    assert planned(cores=4, rate=100.0, holds=Exponential(0.43), outside=0.4).working == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("deadline", "wait", "seconds"), [(4.0, 0.05, 1.0), (0.5, 0.05, 0.125), (10.0, 0.05, 2.5), (0.5, 0.2, 0.4), (30.0, 1.0, 7.5)]
)
def test_pool_timeout_leaves_time_for_the_work(deadline, wait, seconds):
    """A quarter of the deadline, and twice the wait that is tolerated."""
    assert Target(deadline=deadline, wait=wait).pool_timeout == seconds


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        (Load, {"rate": 0.0, "holds": Exponential(0.1)}, "rate=0 is not allowed; allowed: a number above 0"),
        (
            Load,
            {"rate": 1.0, "holds": Exponential(0.1), "outside": 0.1},
            r"outside=0.1 is not allowed; allowed: from 0 to less than the mean hold \(0.1 s\)",
        ),
        (Load, {"rate": float("nan"), "holds": Exponential(0.1)}, "rate=nan is not allowed"),
        (
            Load,
            {"rate": 1e9, "holds": Exponential(60.0)},
            "rate=1e[+]09 is not allowed; allowed: with holds of 60 s up to 1666.67",
        ),
        (Load, {"rate": 1.0, "holds": Exponential(0.1), "burst": 0}, "burst=0 is not allowed; allowed: a whole number from 1"),
        (Load, {"rate": 1.0, "holds": Exponential(0.1), "nesting": 1.5}, "nesting=1.5 is not allowed"),
        (Target, {"share": 0.0}, "share=0 is not allowed; allowed: between 0 and 1"),
        (Target, {"wait": 5.0}, r"wait=5 is not allowed; allowed: from 0 to less than the deadline \(4 s\)"),
        (Target, {"deadline": 0.0}, "deadline=0 is not allowed"),
    ],
)
def test_bad_values_are_refused(what, options, words):
    """The message names the option, the value and what is allowed."""
    with pytest.raises(ValueError, match=words):
        what(**options)
