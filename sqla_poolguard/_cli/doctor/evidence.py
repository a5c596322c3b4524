"""What was gathered, as frozen values: of the engine's settings, the process, the server, the pooler, the application. It judges nothing."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqla_poolguard._budget import Processes, most

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqla_poolguard._budget import ServerLimits

__all__ = [
    "Activity",
    "App",
    "Circumstances",
    "Console",
    "ConsolePool",
    "Cost",
    "Evidence",
    "IdleInTransaction",
    "Mode",
    "Naming",
    "Pooler",
    "RouteAtRisk",
    "Server",
    "Settings",
    "Trouble",
    "TroubleKind",
]


class Naming(enum.StrEnum):
    """Which names prepared statements get: SQLAlchemy's `prepared_statement_name_func`."""

    COUNTED = "counted"
    """asyncpg's own: alike in every process."""
    EMPTY = "empty"
    """None at all."""
    OWN = "own"
    """Something else, such as a uuid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an engine is set up. Seconds are floats; values of connection arguments are kept only where a rule needs them."""

    source: str
    """Where the engine was found: `module:name`, or "the DSN"."""
    address: str
    """host:port/database."""
    driver: str
    """Such as "asyncpg"."""
    asynchronous: bool = True
    pool: str
    """Name of the pool's class."""
    bounded: bool = True
    """Whether it is a pool with a size, of SQLAlchemy's or ours."""
    null: bool = False
    """Whether it is a NullPool."""
    guarded: bool = False
    """Whether it is a GuardedPool."""
    chosen: frozenset[str] = frozenset()
    """Names of options that are known to have been given (for a DSN); empty where nobody can know."""
    pool_size: int = 5
    max_overflow: int = 10
    pool_timeout: float | None = 30.0
    pool_recycle: float = -1
    pre_ping: bool = False
    ping_after: float | None = None
    """A GuardedPool's: seconds of idleness from which a connection is asked before use."""
    max_wait: float | None = None
    """The longest that a GuardedPool lets a caller wait, where it fails fast; else None."""
    arguments_known: bool = True
    """Whether the driver's arguments could be read."""
    statement_cache_size: int = 100
    """asyncpg's own cache, which SQLAlchemy does not use."""
    prepared_cache_size: int = 100
    """SQLAlchemy's cache of prepared statements, for each connection."""
    naming: Naming = Naming.COUNTED
    server_settings: Mapping[str, str] = field(default_factory=dict)
    command_timeout: float | None = None
    application_name: str | None = None
    open_connections: int = 0
    """That the pool had when the module had been imported."""

    @property
    def most(self) -> int | None:
        """Connections it can have; None for no limit."""
        if self.null:
            return None
        return most(self.pool_size, self.max_overflow) if self.bounded else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What nobody can measure from here: what was told, or what the environment says."""

    processes: Processes = Processes()
    processes_from: str | None = None
    """How that is known, such as "--replicas 4 --workers 2"; None: nobody said."""
    deadline: float | None = None
    """Seconds that a request may take."""
    probe_timeout: float | None = None
    """Seconds after which a health probe counts as failed."""
    idle_cut: float | None = None
    """Seconds after which something on the way drops an idle connection."""
    hold: float | None = None
    """Seconds for which a request usually holds a connection (p50)."""
    idle_in_transaction: float = 5.0
    """Seconds from which a session idle in transaction is worth a warning."""
    serverless: bool = False
    """Whether this is a function as a service."""
    preload: str | None = None
    """Where it says that an application is loaded before its workers are forked; None where it is not known."""
    sqlalchemy: str = ""
    asyncpg: str | None = None
    instrumentor: str | None = None
    """Version of opentelemetry-instrumentation-sqlalchemy; None where it is not installed."""
    instrumented: bool = False
    """Whether that instruments every engine of the process."""
    instrumentor_refuses: str | None = None
    """The versions of SQLAlchemy it is for, where the installed one is not among them."""


class TroubleKind(enum.StrEnum):
    """Why there is no connection to the server."""

    REFUSED = "refused"
    """Nobody listens."""
    SILENT = "silent"
    """No answer in time."""
    FULL = "full"
    """No slot is free: SQLSTATE 53300."""
    POOLER_FULL = "pooler full"
    """The pooler takes no more clients, or had no server connection in time."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What PgBouncer says of itself."""

    version: str
    max_client_conn: int
    default_pool_size: int
    reserve_pool_size: int
    max_db_connections: int
    """0 for no limit."""
    max_prepared_statements: int | None
    """None where it knows no such thing: before 1.21."""
    ignore_startup_parameters: frozenset[str]
    pool_sizes: Mapping[str, int]
    """Server connections of each pool, by database of PgBouncer's."""
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


AFTER = frozenset({"first query", "same query again"})
"""Phases that are after the connect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteAtRisk:
    """A route that sends its response in pieces while a dependency holds a session."""

    path: str
    endpoint: str
    """Its name."""
    file: str
    line: int
    dependency: str
    """Its name."""
    kind: str
    """What is sent, such as "StreamingResponse"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A FastAPI application."""

    source: str
    fastapi: str
    """Version."""
    routes: int
    session_dependencies: tuple[str, ...] = ()
    """Names of dependencies that yield a session, for as long as a request lasts."""
    at_risk: tuple[RouteAtRisk, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that was gathered."""

    settings: tuple[Settings, ...] = ()
    """Of each engine; the first is the one that was asked about, and whose server was."""
    circumstances: Circumstances = Circumstances()
    server: Server | None = None
    trouble: Trouble | None = None
    pooler: Pooler | None = None
    cost: Cost | None = None
    apps: tuple[App, ...] = ()
    unseen: tuple[str, ...] = ()
    """What could not be seen, and why, a sentence each."""
