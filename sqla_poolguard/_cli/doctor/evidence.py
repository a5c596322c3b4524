"""What was gathered, as frozen values: of the engine's settings, the process and the application; all together. It judges nothing."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqla_poolguard._budget import Processes, most

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqla_poolguard._cli.doctor.sights import Cost, Pooler, Server, Trouble

__all__ = [
    "App",
    "Circumstances",
    "Evidence",
    "Naming",
    "RouteAtRisk",
    "Settings",
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
    assumed: bool = False
    """Whether nobody said how it is set up: an address alone."""
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

    processes: Processes = field(default_factory=Processes)
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
