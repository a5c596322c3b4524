"""How many server connections a PgBouncer can open: its limits cross each other, as each pool has a database and a user."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from doubles.consoles import CONSOLE
from hypothesis import given
from hypothesis import strategies as st

from sqla_poolguard._cli.doctor.capacity import capacity, largest
from sqla_poolguard._cli.doctor.sights import ConsoleDatabase, ConsolePool, ConsoleUser

LIMIT = st.integers(0, 6)


def console(pools, databases, users):
    """Make a console: pairs of database and user; size, reserve and limit of each; size, reserve and limit of each."""
    return replace(
        CONSOLE,
        databases={
            name: ConsoleDatabase(server=server, pool_size=size, reserve=reserve, most=most)
            for name, (size, reserve, most, server) in databases.items()
        },
        users={name: ConsoleUser(pool_size=size, reserve=reserve, most=most) for name, (size, reserve, most) in users.items()},
        pools=tuple(ConsolePool(database=one, user=other, clients=1, waiting=0, longest_wait=0.0) for one, other in pools),
    )


@given(sizes=st.lists(st.integers(1, 5), min_size=4, max_size=4), limits=st.lists(LIMIT, min_size=4, max_size=4))
def test_limits_that_cross(sizes, limits):
    """The most that any opening of connections reaches, tried one and all, with two databases and two users."""
    databases, users = {"d": limits[0], "e": limits[1]}, {"u": limits[2], "v": limits[3]}
    pools = list(itertools.product(databases, users))
    reached = 0
    for opened in itertools.product(*(range(size + 1) for size in sizes)):
        sums = dict.fromkeys("deuv", 0)
        for (database, user), count in zip(pools, opened, strict=True):
            sums[database] += count
            sums[user] += count
        if all(not limit or sums[name] <= limit for name, limit in (databases | users).items()):
            reached = max(reached, sum(opened))
    bounds = [{name: limit for name, limit in limits.items() if limit} for limits in (databases, users)]
    assert largest(dict(zip(pools, sizes, strict=True)), *bounds) == reached


@pytest.mark.parametrize(
    ("pools", "databases", "users", "connections"),
    [
        ([("d", "u"), ("d", "v")], {"d": (20, 0, 0, "h:1")}, {}, 40),
        ([("d", "u"), ("d", "v")], {"d": (20, 5, 0, "h:1")}, {}, 50),
        ([("d", "u"), ("d", "v")], {"d": (20, 5, 30, "h:1")}, {}, 30),
        ([("d", "u"), ("d", "v")], {"d": (20, 0, 0, "h:1")}, {"u": (3, None, 0)}, 23),
        ([("d", "u"), ("d", "v")], {"d": (20, 5, 0, "h:1")}, {"u": (3, 1, 0)}, 29),
        ([("d", "u"), ("e", "u")], {"d": (20, 0, 0, "h:1"), "e": (20, 0, 0, "h:1")}, {"u": (None, None, 25)}, 25),
        ([("d", "u"), ("e", "u")], {"d": (20, 0, 0, "h:1"), "e": (20, 0, 0, "elsewhere:1")}, {}, 20),
        ([], {}, {}, 0),
    ],
)
def test_sizes_and_reserves(pools, databases, users, connections):
    """Of a user, else of the database; of the server that is meant alone."""
    assert capacity(console(pools, databases, users), "d").connections == connections
