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
from sqla_poolguard._monitor.standstill import Standstills
from sqla_poolguard.monitor import PoolMonitor

HOLDER = Holder("orders", Site("/app/orders.py", 48, "load"), "Task-1", 9.0, 0.0)
IDLE = Session(7, "idle in transaction", 6.0, 6.5, None, 2, (), None, ours=True)


def seen(used, waited=(), idle=0, limit=10, **more):
    """Make a snapshot."""
    waiters = tuple(dataclasses.replace(HOLDER, held=0.0, waited=seconds) for seconds in waited)
    return PoolSnapshot("orders", limit, 0, idle, used, 0, len(waited), (), waiters, **more)


class Watched:
    """Alarms that look every five seconds."""

    def __init__(self, **options):
        self.alarms, self.now = Alarms(Settings(**options)), 0.0

    def look(self, seen, rows=(), slots=None, stood_still=0.0):
        """Look; give the kinds of what is new, and of what is over."""
        self.now += 5.0
        news, over = self.alarms.judge(seen, rows, slots, now=self.now, stood_still=lambda _: stood_still)
        self.texts = [alarm.text for alarm in news]
        return [str(alarm.kind) for alarm in news], [str(kind) for kind, _ in over]

    def story(self, *looks):
        """Play looks; assert what each tells."""
        for number, (seen, news, over) in enumerate(looks):
            assert self.look(seen) == (news, over), f"look {number}"


NEAR, STARVED = ["pool_near_capacity"], ["pool_starvation_detected"]


def test_a_pool_that_is_full_for_a_moment_is_not_near_its_capacity():
    """That is what a pool is for: neither one look tells, nor two with another between them, nor less than ten seconds of them."""
    alone = (seen(10), [], [])
    Watched().story(alone, (seen(2), [], []), alone, alone, (seen(7.9), [], []), alone, (seen(2), [], []))
    watched = Watched()
    watched.story((seen(8), [], []), (seen(10), [], []), (seen(9), NEAR, []))
    assert Watched(sustained=60).look(seen(10)) == ([], [])
    assert Watched(sustained=0).look(seen(10)) == (NEAR, [])
    assert watched.look(seen(10)) == ([], [])


def test_near_capacity_says_for_how_long():
    """The share that was passed, and the seconds, are in the text."""
    watched = Watched()
    watched.story((seen(8), [], []), (seen(10), [], []), (seen(9), NEAR, []))
    assert watched.texts == ["9 of 10 connections are in use, and 80% or more have been for 10 s"]


def test_near_capacity_is_told_once_while_it_goes_up_and_down():
    """It is over only when it has been clearly below for ten seconds, at every look; then it is told anew."""
    full, less, well = (seen(10), [], []), (seen(7.5), [], []), (seen(7), [], [])
    end, again = (seen(7), [], NEAR), (seen(8), NEAR, [])
    begin = [full, full, (seen(10), NEAR, [])]
    Watched().story(*begin, full, less, full, well, full, well, less, well, well, end, well, full, full, again)


def test_a_pool_without_a_limit_is_never_near_it():
    """Nor one whose alarm is turned off; one that loses its limit meanwhile is well."""
    assert Watched(sustained=0).look(seen(99, limit=0)) == ([], [])
    assert Watched(sustained=0, near_capacity=None).look(seen(10)) == ([], [])
    Watched(sustained=0).story((seen(10), NEAR, []), (seen(99, limit=0), [], NEAR))


def test_starvation_is_a_long_wait_beside_nothing_idle():
    """A short wait is none, nor is one that ends in this moment, since something is idle; the wait itself is long, so one look is enough."""
    watched = Watched(near_capacity=None)
    watched.story(
        (seen(10, [0.9]), [], []),
        (seen(9, [1.5], idle=1), [], []),
        (seen(10, [1.5, 0.1]), STARVED, []),
        (seen(10, [2.5]), [], []),
    )


def test_starvation_is_one_episode_while_waits_go_up_and_down():
    """Somebody who got a connection in between ends nothing; ten seconds without a long wait do."""
    watched = Watched(near_capacity=None)
    long, short, none = (seen(10, [1.5]), [], []), (seen(10, [0.95]), [], []), (seen(10), [], [])
    watched.story((seen(10, [1.5]), STARVED, []), none, long, none, short, none, none, (seen(10), [], STARVED), none)
    assert watched.look(seen(10, [1.5])) == (STARVED, [])


@pytest.mark.parametrize(("bad", "told"), [(seen(10, [1.5]), STARVED), (seen(10), NEAR)], ids=["starved", "near"])
def test_a_second_episode_lasts_as_long_as_the_first(bad, told):
    """What was well between two episodes does not end the second one at its first good look."""
    watched = Watched(**({"near_capacity": None} if told is STARVED else {"starvation": None}))
    well = seen(2)
    for _ in range(3):
        watched.look(bad)
    assert [watched.look(well) for _ in range(3)][-1] == ([], told)
    for _ in range(4):
        watched.look(well)
    begun = [watched.look(bad)[0] for _ in range(3)]
    assert begun.count(told) == 1
    for _ in range(5):
        assert watched.look(well) == ([], [])
        assert watched.look(bad) == ([], [])


def test_a_wait_for_the_event_loop_is_no_starvation():
    """While the loop stands still everybody waits, and nobody's connection is missing: the holders are not to be blamed."""
    watched = Watched(near_capacity=None)
    assert watched.look(seen(10, [3.0]), stood_still=2.5) == ([], [])
    assert watched.look(seen(10, [3.6]), stood_still=2.5) == (STARVED, [])
    assert Watched(near_capacity=None, starvation=0).look(seen(10), stood_still=2.5) == ([], [])


def test_idle_in_transaction_is_told_for_each_holder():
    """Two at one time are two; one that is declared to be right is told only while others wait for it."""
    watched = Watched(near_capacity=None)
    other = dataclasses.replace(IDLE, pid=8)
    rows = (MonitorRow(HOLDER, IDLE), MonitorRow(HOLDER, other))
    assert watched.look(seen(2), rows[:1], None) == (["stale_idle_in_transaction"], [])
    assert watched.look(seen(2), rows, None) == (["stale_idle_in_transaction"], [])
    assert watched.look(seen(2), rows, None) == ([], [])
    assert watched.look(seen(0), (), None) == ([], [])
    declared = MonitorRow(dataclasses.replace(HOLDER, declared="leader"), IDLE)
    assert watched.look(seen(1), (declared,), None) == ([], [])
    assert watched.look(seen(1), (dataclasses.replace(declared, blocks=1),), None) == (["stale_idle_in_transaction"], [])


def test_standstills_are_those_of_a_wait():
    """What the loop stood still before somebody came is not taken off its wait; a beat that is lost and found begins anew."""
    standstills = Standstills()
    assert standstills.within(5.0) == 0.0
    for now, lag in ((10.0, 3.0), (11.0, 3.0), (12.0, 3.5), (13.0, 0.0), (14.0, 0.25)):
        standstills.look(now, lag)
    assert [standstills.within(seconds) for seconds in (0.1, 1.0, 2.5, 60.0)] == [0.1, 0.25, 0.75, 0.75]
    for now in range(20, 2000, 5):
        standstills.look(float(now), 0.25)
    assert standstills.within(3600.0) == 0.0
    assert len(standstills._seen) < 30


@pytest.mark.parametrize("state", ["active", "idle", None])
def test_what_is_not_idle_in_a_transaction_is_not_told(state):
    """A long query is no idle transaction, nor is a state that we may not see."""
    row = MonitorRow(HOLDER, dataclasses.replace(IDLE, state=state))
    assert Watched().look(seen(1), (row, MonitorRow(HOLDER, None))) == ([], [])


def test_few_slots_are_told_until_there_are_more():
    """While the server cannot be asked the alarm is neither over nor told again."""
    watched = Watched(near_capacity=None)
    assert watched.look(seen(1), (), Slots(6, 97)) == ([], [])
    assert watched.look(seen(1), (), Slots(5, 97)) == (["server_slots_low"], [])
    assert watched.look(seen(1), (), None) == ([], [])
    assert watched.look(seen(1), (), Slots(0, None)) == ([], [])
    assert watched.look(seen(1), (), Slots(6, 97)) == ([], [])
    assert watched.look(seen(1), (), Slots(7, 97)) == ([], ["server_slots_low"])


@pytest.mark.parametrize(("bound", "words"), [(Bound.ROLE, " of the role's limit"), (Bound.DATABASE, " of the database's limit")])
def test_few_slots_name_the_limit(bound, words):
    """Which is not always the server's."""
    (alarm,), _ = Alarms(Settings()).judge(seen(1), (), Slots(2, 20, bound), now=0.0, stood_still=lambda _: 0.0)
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
        ("sustained", None, r"seconds from 0 \(then one look is enough\) to 3600"),
        ("sustained", 3601, r"seconds from 0 \(then one look is enough\) to 3600"),
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
