"""The room that a server has for a role, and the share of each process."""

from __future__ import annotations

import pytest

from sqla_poolguard._budget import Bound, Others, Processes, Room, ServerLimits, most, shown_size


@pytest.mark.parametrize(
    ("options", "room"),
    [
        ({}, Room(97, Bound.SERVER)),
        ({"reserved": 7}, Room(90, Bound.SERVER)),
        ({"reserved": 7, "may_use_reserved": True}, Room(97, Bound.SERVER)),
        ({"reserved": 7, "is_superuser": True}, Room(100, Bound.SERVER)),
        ({"role_limit": 40}, Room(40, Bound.ROLE)),
        ({"role_limit": 40, "database_limit": 30}, Room(30, Bound.DATABASE)),
        ({"role_limit": 0}, Room(0, Bound.ROLE)),
        ({"database_limit": -2}, Room(0, Bound.DATABASE)),
        ({"role_limit": 97}, Room(97, Bound.SERVER)),
        ({"role_limit": 40, "database_limit": 30, "is_superuser": True}, Room(100, Bound.SERVER)),
    ],
)
def test_room_is_that_of_the_strictest_limit(options, room):
    """What is reserved, and for whom, depends on the role; a superuser is bound by the server's size alone."""
    assert ServerLimits(max_connections=100, **options).room == room


@pytest.mark.parametrize(
    ("limits", "others", "headroom", "left"),
    [
        ({}, Others(), 0, Room(97, Bound.SERVER)),
        ({}, Others(server=17), 5, Room(75, Bound.SERVER)),
        ({}, Others(server=200), 0, Room(0, Bound.SERVER)),
        ({"role_limit": 20}, Others(server=50), 5, Room(20, Bound.ROLE)),
        ({"role_limit": 20}, Others(server=50, role=3), 5, Room(17, Bound.ROLE)),
        ({"role_limit": 20}, Others(server=80, role=3), 0, Room(17, Bound.SERVER)),
        ({"role_limit": 20}, Others(server=85, role=3), 0, Room(12, Bound.SERVER)),
        ({"database_limit": 20}, Others(server=50, role=15), 5, Room(20, Bound.DATABASE)),
        ({"database_limit": 20}, Others(server=50, database=15), 5, Room(5, Bound.DATABASE)),
        ({"role_limit": 20, "database_limit": 30}, Others(server=50, database=15), 5, Room(15, Bound.DATABASE)),
        ({"role_limit": 2}, Others(role=9, server=9), 0, Room(0, Bound.ROLE)),
        ({"role_limit": 20, "is_superuser": True}, Others(server=30, role=20), 5, Room(65, Bound.SERVER)),
    ],
)
def test_each_limit_counts_its_own_others(limits, others, headroom, left):
    """Other roles take nothing of a role's limit, other databases nothing of a database's; less than nothing is left to nobody."""
    assert ServerLimits(max_connections=100, **limits).left(others, headroom) == left


def test_what_one_limit_allows():
    """Before anybody has anything."""
    limits = ServerLimits(max_connections=100, role_limit=20)
    assert [limits.allowed(bound) for bound in (Bound.SERVER, Bound.ROLE)] == [97, 20]


@pytest.mark.parametrize("options", [{"server": -1}, {"role": -1}, {"database": 1.5}])
def test_others_that_cannot_be_are_refused(options):
    """The message names which."""
    with pytest.raises(ValueError, match=f"others.{next(iter(options))}=.* is not allowed; allowed: a whole number from 0"):
        Others(**options)


@pytest.mark.parametrize(
    ("size", "words"),
    [((10, 5), "10+5"), ((5, -1), "5+ without limit (max_overflow=-1)"), ((0, 5), "no limit (pool_size=0)"), ((0, -1), "no limit (pool_size=0)")],
)  # fmt: skip
def test_sizes_are_written_as_people_do(size, words):
    """Nobody reads 5+-1."""
    assert shown_size(*size) == words


def test_limits_are_made_of_the_row_that_the_server_gave():
    """A row has all the fields by name, and may have more."""
    row = {
        "version": 150018,
        "max_connections": 60,
        "superuser_reserved": 3,
        "reserved": 0,
        "role_limit": -1,
        "database_limit": 20,
    }
    row |= {"is_superuser": False, "may_use_reserved": False, "something": 1}
    assert ServerLimits.of(row).room == Room(20, Bound.DATABASE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_connections": 0}, "max_connections=0 is not allowed; allowed: a whole number from 1"),
        ({"max_connections": 10, "reserved": -1}, "reserved=-1 is not allowed"),
        ({"max_connections": 10, "role_limit": -3}, "role_limit=-3 is not allowed"),
        ({"max_connections": 10, "superuser_reserved": 3, "reserved": 7}, "leave nothing of max_connections=10"),
        ({"max_connections": 10.5}, "max_connections=10.5 is not allowed"),
    ],
)
def test_limits_that_no_server_has_are_refused(options, words):
    """The message names the option, the value and what is allowed."""
    with pytest.raises(ValueError, match=words):
        ServerLimits(**options)


def test_peak_counts_what_starts_and_what_stops():
    """In a rollout new replicas have started and old ones have not gone; job workers are there all the time."""
    processes = Processes(replicas=4, workers=3, surge=1, terminating=2, more=5)
    assert processes.peak == (4 + 1 + 2) * 3 + 5
    assert processes.steady.peak == 4 * 3 + 5


def test_share_is_rounded_down_and_counts_engines():
    """Shares together never exceed what there is."""
    assert Processes(replicas=4, workers=4).share(97) == 6
    assert Processes(replicas=4, workers=4, engines=2).share(97) == 3
    assert Processes(replicas=50, workers=4).share(97) == 0


def test_demand_is_that_of_all_pools():
    """The line at start-up: 10+5 in each of 4 processes."""
    assert Processes(workers=4).demand(10, 5) == 60
    assert Processes(workers=4, engines=2).demand(10, 5) == 120
    assert Processes(workers=4).demand(0, 5) is None


@pytest.mark.parametrize(
    "options", [{"replicas": 0}, {"workers": 0}, {"surge": -1}, {"terminating": -1}, {"more": -1}, {"engines": 0}]
)
def test_counts_that_cannot_be_are_refused(options):
    """The message names the option."""
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* is not allowed; allowed: a whole number from"):
        Processes(**options)


def test_zero_and_minus_one_are_no_limit():
    """As SQLAlchemy reads them."""
    assert [most(10, 5), most(10, 0), most(0, 5), most(10, -1)] == [15, 10, None, None]
