"""What was seen beyond the process, as frozen values: a server, a pooler, what a connection costs, why there is none. It judges nothing."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqla_poolguard._budget import ServerLimits

__all__ = [
    "AFTER",
    "Activity",
    "Console",
    "ConsoleDatabase",
    "ConsolePool",
    "ConsoleUser",
    "Cost",
    "IdleInTransaction",
    "Mode",
    "Pooler",
    "Server",
    "Trouble",
    "TroubleKind",
]


class TroubleKind(enum.StrEnum):
    """Why there is no connection to the server."""

    REFUSED = "refused"
    """Nobody listens."""
    SILENT = "silent"
    """No answer in time."""
    FULL = "full"
    """No slot is free: SQLSTATE 53300."""
    POOLER_FULL = "pooler full"
    """The pooler takes no more clients, or had no server connection in the time that it gives."""
    EXHAUSTED = "pool exhausted"
    """The pooler answers, and has no server connection for us: all are busy, or it cannot open one."""
    DENIED = "denied"
    """The password, the role or the database is wrong, or pg_hba.conf says no."""
    UNKNOWN_HOST = "unknown host"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why there is no connection to the server."""

    kind: TroubleKind
    said: str
    """What the server, the driver or the system said, without passwords."""
    seconds: float
    """How long that took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Sessions of the server that look alike."""

    application: str
    state: str | None
    """Such as "idle in transaction"; None where this role may not see it."""
    own_role: bool
    count: int
    in_database: int = 0
    """Of them, those in the database that was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleInTransaction:
    """A session that is idle in transaction."""

    pid: int
    application: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A PostgreSQL that answered."""

    version: str
    role: str
    limits: ServerLimits | None
    timeouts: Mapping[str, float | None]
    """Seconds for each setting that bounds something; 0 is off, None is a setting that this version has not."""
    activity: tuple[Activity, ...]
    idle_in_transaction: tuple[IdleInTransaction, ...]
    """Those for long enough; only what this role may see."""

    @property
    def connected(self) -> int:
        """Sessions of clients, all roles and databases, ours not counted."""
        return sum(group.count for group in self.activity)

    @property
    def hidden(self) -> int:
        """Sessions whose state this role may not see."""
        return sum(group.count for group in self.activity if group.state is None)


class Mode(enum.StrEnum):
    """When a pooler takes back the server connection."""

    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsolePool:
    """A line of `SHOW POOLS`."""

    database: str
    user: str
    clients: int
    waiting: int
    longest_wait: float
    """Seconds for which the first in the queue has waited."""
    busy: int = 0
    """Server connections that clients have."""
    free: int = 0
    """Server connections that the next client can have."""
    logging_in: int = 0
    """Server connections that are being opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleDatabase:
    """A line of `SHOW DATABASES`."""

    server: str
    """host:port to which it leads."""
    pool_size: int
    """Server connections of each of its pools."""
    reserve: int
    """Those on top for clients that have waited."""
    most: int
    """Server connections of all its pools together; 0 for no limit."""
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleUser:
    """A line of `SHOW USERS`."""

    pool_size: int | None = None
    """Server connections of each pool of this user; None: what the database says. Since 1.24."""
    reserve: int | None = None
    """Likewise, those on top for clients that have waited."""
    most: int = 0
    """Server connections of all pools of this user together; 0 for no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What PgBouncer says of itself."""

    version: str
    max_client_conn: int
    default_pool_size: int
    reserve_pool_size: int
    max_db_connections: int
    """These three are for databases that say nothing else; 0 is no limit."""
    max_prepared_statements: int | None
    """None where it knows no such thing: before 1.21."""
    ignore_startup_parameters: frozenset[str]
    pool_sizes: Mapping[str, int]
    """Server connections of each pool, by database of PgBouncer's."""
    databases: Mapping[str, ConsoleDatabase]
    """Those that it knows now, by their name in PgBouncer."""
    users: Mapping[str, ConsoleUser]
    """Those of its pools."""
    pools: tuple[ConsolePool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooler:
    """Something between us and the server that has connections of its own."""

    proof: str
    """How that is known."""
    mode: Mode = Mode.UNKNOWN
    mode_proof: str = ""
    renames: bool | None = None
    """Whether it keeps clients' prepared statements apart; None where that is not known."""
    rejected: str | None = None
    """What it said to the engine's `server_settings`, if it refused them."""
    console: Console | None = None
    no_console: str = ""
    """Why its console could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a connection costs here, in seconds, as asyncpg pays it."""

    phases: tuple[tuple[str, float], ...]
    """What it took, one after the other."""
    round_trip: float
    """The shortest of what the shortest query took."""
    stock_ping: float | None
    """Median of SQLAlchemy's `pool_pre_ping` (BEGIN, an empty statement, ROLLBACK); None behind a pooler, where it could do harm."""
    own_ping: float
    """Median of GuardedPool's."""
    tls: str | None = None
    """Version of TLS; None without."""

    @property
    def connect(self) -> float:
        """Seconds until the first query could be sent."""
        return sum(seconds for name, seconds in self.phases if name not in AFTER)


AFTER: Final = frozenset({"first query", "same query again"})
"""Phases that are after the connect."""
