"""How many server connections a PgBouncer can open to one server, by what its console says. It asks nobody."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from sqla_poolguard._cli.doctor.sights import ConsoleUser

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqla_poolguard._cli.doctor.sights import Console

    _Node = tuple[str, str]

__all__ = ["Capacity", "capacity", "largest"]

_DATABASE, _USER = "database", "user"
_START: Final = ("", "start")
_END: Final = ("", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The most that the pools which there are now can open."""

    connections: int
    pools: int
    sizes: tuple[int, ...]
    """The different sizes of the pools, without what they have in reserve."""
    reserves: tuple[int, ...]
    """The different reserves on top of them."""
    bounded: tuple[str, ...]
    """What leaves them less than the sum of their sizes, as PgBouncer calls it."""


def capacity(console: Console, database: str, *, only_user: str | None = None, only_database: str | None = None) -> Capacity:
    """
    Count; each pair of database and user is a pool.

    Source: PgBouncer's `launch_new_connection()`: a pool's size (the user's, else the database's), and its reserve, then the limit
    of the database over all users, then that of the user over all databases.

    Args:
        console: what it says.
        database: whose server is meant; pools of other servers are not counted.
        only_user: whose pools are counted; default: everybody's.
        only_database: of which database the pools are counted, as PgBouncer calls it; default: of all.
    """
    own = console.databases.get(database)
    sizes: dict[tuple[str, str], int] = {}
    plain, reserves = set(), set()
    for pool in console.pools:
        if only_user not in {None, pool.user} or only_database not in {None, pool.database}:
            continue
        its = console.databases.get(pool.database)
        if its is None or (own is not None and its.server != own.server):
            continue
        user = console.users.get(pool.user, ConsoleUser())
        size = its.pool_size if user.pool_size is None else user.pool_size
        reserve = its.reserve if user.reserve is None else user.reserve
        sizes[pool.database, pool.user] = size + reserve
        plain.add(size)
        reserves.add(reserve)
    of_databases = {name: its.most for name, its in console.databases.items() if its.most}
    of_users = {name: user.most for name, user in console.users.items() if user.most}
    everything = sum(sizes.values())
    bounded = (("max_db_connections", largest(sizes, of_databases, {})), ("max_user_connections", largest(sizes, {}, of_users)))
    return Capacity(
        connections=largest(sizes, of_databases, of_users),
        pools=len(sizes),
        sizes=tuple(sorted(plain)),
        reserves=tuple(sorted(reserves - {0})),
        bounded=tuple(name for name, total in bounded if total < everything),
    )


def largest(sizes: Mapping[tuple[str, str], int], of_databases: Mapping[str, int], of_users: Mapping[str, int]) -> int:
    """Give the largest flow through limits of databases, pools and limits of users (Ford and Fulkerson, 1956)."""
    everything = sum(sizes.values())
    room: defaultdict[_Node, dict[_Node, int]] = defaultdict(dict)
    for (database, user), size in sizes.items():
        room[_START][_DATABASE, database] = of_databases.get(database, everything)
        room[_DATABASE, database][_USER, user] = size
        room[_USER, user][_END] = of_users.get(user, everything)
    flow = 0
    while path := _way(room, [_START]):
        steps = list(pairwise(path))
        more = min(room[one][other] for one, other in steps)
        for one, other in steps:
            room[one][other] -= more
            room[other][one] = room[other].get(one, 0) + more
        flow += more
    return flow


def _way(room: Mapping[_Node, Mapping[_Node, int]], start: list[_Node]) -> list[_Node] | None:
    """Find a way on which there is room."""
    ways, seen = [start], set(start)
    while ways:
        way = ways.pop(0)
        if way[-1] == _END:
            return way
        for node, left in room[way[-1]].items():
            if left and node not in seen:
                seen.add(node)
                ways.append([*way, node])
    return None
