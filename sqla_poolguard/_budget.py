"""How many connections a server has room for, for one role, and how many of them each process may have. It asks no server."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LIMITS_SQL", "Bound", "Others", "Processes", "Room", "ServerLimits", "most", "shown_size"]

LIMITS_SQL: Final = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int AS superuser_reserved,
       coalesce(nullif(current_setting('reserved_connections', true), ''),
                nullif(current_setting('rds.rds_superuser_reserved_connections', true), ''), '0')::int AS reserved,
       own.rolconnlimit AS role_limit,
       here.datconnlimit AS database_limit,
       own.rolsuper AS is_superuser,
       EXISTS (SELECT FROM pg_catalog.pg_roles AS may WHERE may.rolname IN ('pg_use_reserved_connections', 'rds_superuser')
               AND pg_has_role(own.oid, may.oid, 'USAGE')) AS may_use_reserved
  FROM pg_catalog.pg_roles AS own, pg_catalog.pg_database AS here
 WHERE own.rolname = session_user AND here.datname = current_database()
"""
"""
Gives the one row of which `ServerLimits.of()` is made. Any role may ask, on PostgreSQL 12 and newer.

The limits of a role are those of the one that logged in (`session_user`), whatever `SET ROLE` says.
RDS had a reserve of its own before PostgreSQL 16 had one, for its `rds_superuser`.
"""

_NO_LIMIT: Final = -1
"""As PostgreSQL writes it in `rolconnlimit` and `datconnlimit`; -2 is a database that is being dropped."""


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"{name}={value!r} is not allowed; allowed: a whole number from {least}"
        raise ValueError(msg)


class Bound(enum.StrEnum):
    """Which limit it is that leaves a role the least room."""

    SERVER = "max_connections"
    """The server's, less what it reserves."""
    ROLE = "role"
    """`ALTER ROLE … CONNECTION LIMIT`."""
    DATABASE = "database"
    """`ALTER DATABASE … CONNECTION LIMIT`."""


class Room(NamedTuple):
    """Connections that one role can have to one database, and what it is that allows no more."""

    slots: int
    bound: Bound
    """Which limit that is; of equal ones the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """
    Connections that somebody else has, or must be able to get.

    Each limit counts its own: the server's all of them, a role's and a database's only those of that role and to that database.

    Raises:
        ValueError: less than none.
    """

    server: int = 0
    """All of them, whatever their role and database."""
    role: int = 0
    """Of them, those of our role: another service that logs in like ours."""
    database: int = 0
    """Of them, those to our database: other services that share it."""

    def __post_init__(self) -> None:
        for name in ("server", "role", "database"):
            _at_least(f"others.{name}", getattr(self, name), 0)


_NOBODY: Final = Others()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """
    What bounds the connections of one role to one database.

    Source: PostgreSQL's documentation, 20.3.1 (`max_connections`, `superuser_reserved_connections`, `reserved_connections`),
    and `InitPostgres()` and `CheckMyDatabase()` of its source, which decide.

    Raises:
        ValueError: a value that no server has.
    """

    max_connections: int
    superuser_reserved: int = 3
    """`superuser_reserved_connections`."""
    reserved: int = 0
    """`reserved_connections`, since PostgreSQL 16."""
    role_limit: int = _NO_LIMIT
    """`rolconnlimit`; -1 for none. Superusers have none."""
    database_limit: int = _NO_LIMIT
    """`datconnlimit`; -1 for none. Superusers have none."""
    is_superuser: bool = False
    may_use_reserved: bool = False
    """Whether the role has the privileges of `pg_use_reserved_connections`, since PostgreSQL 16."""
    version: int = 0
    """`server_version_num`, such as 180006; 0 if it is not known."""

    def __post_init__(self) -> None:
        kept = self.superuser_reserved + self.reserved
        for name, least in (("max_connections", 1), ("superuser_reserved", 0), ("reserved", 0)):
            _at_least(name, getattr(self, name), least)
        for name in ("role_limit", "database_limit"):
            _at_least(name, getattr(self, name), -2)
        if kept >= self.max_connections:
            msg = f"superuser_reserved={self.superuser_reserved} and reserved={self.reserved} leave nothing of "
            msg += f"max_connections={self.max_connections}; allowed: together less than that"
            raise ValueError(msg)

    @classmethod
    def of(cls, row: Mapping[str, object]) -> ServerLimits:
        """Make it of the row that `LIMITS_SQL` gave."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})  # type: ignore[arg-type] # as the statement casts them

    @property
    def withheld(self) -> int:
        """The slots of `max_connections` that are kept from this role."""
        if self.is_superuser:
            return 0
        return self.superuser_reserved + (0 if self.may_use_reserved else self.reserved)

    @property
    def rooms(self) -> tuple[Room, ...]:
        """What each limit that applies allows, if nobody else has any; the server's first."""
        found = [Room(self.max_connections - self.withheld, Bound.SERVER)]
        if not self.is_superuser:
            own = ((self.role_limit, Bound.ROLE), (self.database_limit, Bound.DATABASE))
            found += [Room(max(limit, 0), bound) for limit, bound in own if limit != _NO_LIMIT]
        return tuple(found)

    @property
    def room(self) -> Room:
        """The connections that the role can have at most, if nobody else has any, and which limit that is."""
        return self.left()

    def allowed(self, bound: Bound) -> int:
        """Give what one limit that applies allows, if nobody else has any."""
        return next(room.slots for room in self.rooms if room.bound is bound)

    def without(self, bound: Bound) -> ServerLimits:
        """Give the same without a limit of the role or the database; the server's is always there."""
        if bound is Bound.SERVER:
            return self
        return replace(self, role_limit=_NO_LIMIT) if bound is Bound.ROLE else replace(self, database_limit=_NO_LIMIT)

    def left(self, others: Others = _NOBODY, headroom: int = 0) -> Room:
        """
        Give what is left for one service, and which limit it is that leaves the least.

        Args:
            others: what others have, or must be able to get.
            headroom: slots of the server that are to stay free beside it, for people and migrations.
        """
        _at_least("headroom", headroom, 0)
        taken = {Bound.SERVER: others.server + headroom, Bound.ROLE: others.role, Bound.DATABASE: others.database}
        return min((Room(max(slots - taken[bound], 0), bound) for slots, bound in self.rooms), key=lambda room: room.slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """
    How many processes of a service there are at most at one time: during a rollout, not on a quiet day.

    Source of surge and terminating: Kubernetes, Deployments, `maxSurge`; a pod that terminates counts neither as replica nor as surge,
    and keeps its connections until it has gone.

    Raises:
        ValueError: a count that cannot be.
    """

    replicas: int = 1
    """The most there are when nothing is rolled out (the autoscaler's `maxReplicas`)."""
    workers: int = 1
    """Processes of each replica (`WEB_CONCURRENCY`, `--workers`)."""
    surge: int = 0
    """Replicas that a rollout starts before it stops old ones."""
    terminating: int = 0
    """Replicas that have been told to stop, and still finish requests."""
    more: int = 0
    """Processes beside them with the same engine: job workers, schedulers."""
    engines: int = 1
    """Engines (pools) of each process, on the same server."""

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("workers", 1), ("surge", 0), ("terminating", 0), ("more", 0), ("engines", 1)):
            _at_least(name, getattr(self, name), least)

    @property
    def peak(self) -> int:
        """Processes at the worst moment."""
        return (self.replicas + self.surge + self.terminating) * self.workers + self.more

    @property
    def steady(self) -> Processes:
        """The same without what a rollout adds: those that do the work."""
        return replace(self, surge=0, terminating=0)

    @property
    def pools(self) -> int:
        """Pools at the worst moment."""
        return self.peak * self.engines

    def share(self, usable: int) -> int:
        """
        Give the connections that each pool may have at most (`pool_size + max_overflow`); 0 if there are more pools than slots.

        Args:
            usable: connections that the service may have in all.
        """
        return usable // self.pools

    def demand(self, pool_size: int, max_overflow: int) -> int | None:
        """Give the connections that pools of that size can take at the worst moment; None if nothing limits them."""
        each = most(pool_size, max_overflow)
        return None if each is None else each * self.pools


def most(pool_size: int, max_overflow: int) -> int | None:
    """
    Give the connections that one pool can have; None for no limit.

    As SQLAlchemy reads it: `pool_size=0` is no limit, and not no pool; so is `max_overflow=-1`.
    """
    return None if pool_size == 0 or max_overflow < 0 else pool_size + max_overflow


def shown_size(pool_size: int, max_overflow: int) -> str:
    """Write a pool's size as people do: 10+5; and which option it is that leaves it without a limit."""
    if most(pool_size, max_overflow) is not None:
        return f"{pool_size}+{max_overflow}"
    return "no limit (pool_size=0)" if pool_size == 0 else f"{pool_size}+ without limit (max_overflow={max_overflow})"
