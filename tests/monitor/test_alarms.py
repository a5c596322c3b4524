"""When the monitor warns, and when it does not: the rules alone, without a server."""

from __future__ import annotations

import dataclasses

import pytest
from doubles.pools import engine
from sqlalchemy import create_engine

from sqla_poolguard import Holder, PoolSnapshot, Site
from sqla_poolguard._budget import Bound
from sqla_poolguard._monitor.alarms import Alarms, Slots
from sqla_poolguard._monitor.facts import Blocker, MonitorRow, Session, lines
from sqla_poolguard._monitor.settings import Settings
from sqla_poolguard.monitor import PoolMonitor

HOLDER = Holder("orders", Site("/app/orders.py", 48, "load"), "Task-1", 9.0, 0.0)
IDLE = Session(7, "idle in transaction", 6.0, 6.5, None, 2, (), None, ours=True)


def seen(used, waited=(), idle=0, limit=10, **more):
    """Make a snapshot."""
    waiters = tuple(dataclasses.replace(HOLDER, held=0.0, waited=seconds) for seconds in waited)
    return PoolSnapshot("orders", limit, 0, idle, used, 0, len(waited), (), waiters, **more)


def kinds(result):
    """Give the kinds of what is new, and of what is over."""
    news, over = result
    return [str(alarm.kind) for alarm in news], [str(kind) for kind, _ in over]


def test_near_capacity_is_told_once_while_it_goes_up_and_down():
    """It begins at four fifths, and is over only clearly below."""
    alarms = Alarms(Settings())
    story = [
        (7, [], []),
        (8, ["pool_near_capacity"], []),
        (10, [], []),
        (7.5, [], []),
        (8, [], []),
        (7, [], ["pool_near_capacity"]),
    ]
    for used, news, over in story:
        assert kinds(alarms.judge(seen(used), (), None)) == (news, over)
    assert kinds(alarms.judge(seen(8), (), None)) == (["pool_near_capacity"], [])


def test_a_pool_without_a_limit_is_never_near_it():
    """Nor one whose alarm is turned off."""
    assert kinds(Alarms(Settings()).judge(seen(99, limit=0), (), None)) == ([], [])
    assert kinds(Alarms(Settings(near_capacity=None)).judge(seen(10), (), None)) == ([], [])


def test_starvation_is_a_long_wait_beside_nothing_idle():
    """A short wait is none, nor is one that ends in this moment, since something is idle."""
    alarms = Alarms(Settings(near_capacity=None))
    assert kinds(alarms.judge(seen(10, [0.9]), (), None)) == ([], [])
    assert kinds(alarms.judge(seen(9, [1.5], idle=1), (), None)) == ([], [])
    assert kinds(alarms.judge(seen(10, [1.5, 0.1]), (), None)) == (["pool_starvation_detected"], [])
    assert kinds(alarms.judge(seen(10, [2.5]), (), None)) == ([], [])
    assert kinds(alarms.judge(seen(10), (), None)) == ([], ["pool_starvation_detected"])


def test_idle_in_transaction_is_told_for_each_holder():
    """Two at one time are two; one that is declared to be right is told only while others wait for it."""
    alarms = Alarms(Settings())
    other = dataclasses.replace(IDLE, pid=8)
    rows = (MonitorRow(HOLDER, IDLE), MonitorRow(HOLDER, other))
    assert kinds(alarms.judge(seen(2), rows[:1], None)) == (["stale_idle_in_transaction"], [])
    assert kinds(alarms.judge(seen(2), rows, None)) == (["stale_idle_in_transaction"], [])
    assert kinds(alarms.judge(seen(2), rows, None)) == ([], [])
    assert kinds(alarms.judge(seen(0), (), None)) == ([], [])
    declared = MonitorRow(dataclasses.replace(HOLDER, declared="leader"), IDLE)
    assert kinds(alarms.judge(seen(1), (declared,), None)) == ([], [])
    assert kinds(alarms.judge(seen(1), (dataclasses.replace(declared, blocks=1),), None)) == (["stale_idle_in_transaction"], [])


@pytest.mark.parametrize("state", ["active", "idle", None])
def test_what_is_not_idle_in_a_transaction_is_not_told(state):
    """A long query is no idle transaction, nor is a state that we may not see."""
    row = MonitorRow(HOLDER, dataclasses.replace(IDLE, state=state))
    assert kinds(Alarms(Settings()).judge(seen(1), (row, MonitorRow(HOLDER, None)), None)) == ([], [])


def test_few_slots_are_told_until_there_are_more():
    """While the server cannot be asked the alarm is neither over nor told again."""
    alarms = Alarms(Settings())
    assert kinds(alarms.judge(seen(1), (), Slots(6, 97))) == ([], [])
    assert kinds(alarms.judge(seen(1), (), Slots(5, 97))) == (["server_slots_low"], [])
    assert kinds(alarms.judge(seen(1), (), None)) == ([], [])
    assert kinds(alarms.judge(seen(1), (), Slots(0, None))) == ([], [])
    assert kinds(alarms.judge(seen(1), (), Slots(6, 97))) == ([], [])
    assert kinds(alarms.judge(seen(1), (), Slots(7, 97))) == ([], ["server_slots_low"])


@pytest.mark.parametrize(("bound", "words"), [(Bound.ROLE, " of the role's limit"), (Bound.DATABASE, " of the database's limit")])
def test_few_slots_name_the_limit(bound, words):
    """Which is not always the server's."""
    (alarm,), _ = Alarms(Settings()).judge(seen(1), (), Slots(2, 20, bound))
    assert alarm.text == f"2 of 20 slots{words} are free; this pool has 1"


def test_lines_are_counted():
    """The most frequent come first, with what the server says, and the others are counted."""
    rows = [MonitorRow(HOLDER, IDLE)] * 3
    rows += [MonitorRow(dataclasses.replace(HOLDER, site=Site("/app/x.py", line, "f")), None) for line in (1, 2, 3, 4)]
    said = lines(rows)
    assert said.startswith("/app/orders.py:48 in load (3 x, idle in transaction); /app/x.py:1 in f (1 x)")
    assert said.endswith("; and 2 other lines")
    assert lines([MonitorRow(dataclasses.replace(HOLDER, site=None), None)]) == "an unknown line (1 x)"
    assert str(Blocker(5, None, "psql")) == "pid 5 of 'psql'"


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("interval", 0, "seconds from 0.05 to 3600"),
        ("interval", None, "seconds from 0.05 to 3600"),
        ("near_capacity", 1.2, "None or a share from 0.01 to 1"),
        ("starvation", -1, "None or a number of seconds, 0 or more"),
        ("idle_in_transaction", float("nan"), "None or a number of seconds, 0 or more"),
        ("slots_low", 2.5, "None or a whole number, 0 or more"),
        ("slots_low", True, "None or a whole number, 0 or more"),
        ("timeout", "2", "seconds from 0.05 to 60"),
    ],
)
def test_bad_options_are_refused(option, value, allowed):
    """The message names the option, its value and what is allowed."""
    with pytest.raises(ValueError, match=rf"^PoolMonitor option {option}={value!r} is not allowed; allowed: {allowed}$"):
        PoolMonitor(engine(), **{option: value})


def test_it_wants_engines_with_guarded_pools():
    """None at all, or one with another pool, is a TypeError that says so."""
    with pytest.raises(TypeError, match="at least one engine"):
        PoolMonitor([])
    with pytest.raises(TypeError, match="poolclass=GuardedPool"):
        PoolMonitor(create_engine("sqlite://"))
