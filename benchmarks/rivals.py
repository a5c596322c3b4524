"""Who is compared: a poolclass, and what is done to an engine or pool that uses it. What they are made to do is elsewhere."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from benchmarks import driver, telemetry
from benchmarks.floor import BarePool, FloorPool
from sqla_poolguard import GuardedPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import Pool

__all__ = ["BARE", "FLOOR", "LISTENERS", "OTEL", "OURS", "OURS_AT_ONCE", "OURS_SDK", "RIVALS", "STOCK", "Rival"]

FLOOR, BARE, STOCK, LISTENERS, OTEL = "floor", "bare proxy", "stock", "stock + 4 listeners", "stock + OpenTelemetry"
OURS, OURS_SDK, OURS_AT_ONCE = "GuardedPool", "GuardedPool + SDK", "GuardedPool, connect_limit=None"


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to pool connections behind SQLAlchemy."""

    name: str
    sentence: str
    pool: type[Pool]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the pool."""
    on_pool: Callable[[Any], None] | None = None
    """Done to a pool before it is used; None: nothing."""
    on_engine: Callable[[AsyncEngine], None] | None = None
    """Done to an engine instead; a rival that has it cannot be used without an engine."""
    missing: str | None = None
    """Why it cannot be measured here; None: it can."""

    def bare(self) -> Any:
        """Make a pool on the fake driver, without an engine."""
        pool = self.pool(driver.creator(), dialect=driver.dialect(), **self.options)
        self._prepare(pool)
        return pool

    def fake(self, creator: Callable[[], Any], **options: Any) -> AsyncEngine:
        """Make an engine on the fake driver."""
        return self._made(
            create_async_engine(driver.URL, creator=creator, poolclass=self.pool, _initialize=False, **self.options, **options)
        )

    def real(self, url: str, **options: Any) -> AsyncEngine:
        """Make an engine on a server."""
        return self._made(create_async_engine(url, poolclass=self.pool, **self.options, **options))

    def _made(self, engine: AsyncEngine) -> AsyncEngine:
        self._prepare(engine.sync_engine.pool)
        if self.on_engine is not None:
            self.on_engine(engine)
        return engine

    def _prepare(self, pool: Any) -> None:
        if self.on_pool is not None:
            self.on_pool(pool)


class _Counts:
    """What the four listeners keep: the least that a hand-written instrumentation does."""

    def __init__(self) -> None:
        self.connected = self.out = self.returned = self.closed = 0

    def listen(self, pool: Any) -> None:
        event.listen(pool, "connect", self._connect)
        event.listen(pool, "checkout", self._checkout)
        event.listen(pool, "checkin", self._checkin)
        event.listen(pool, "close", self._close)

    def _connect(self, _connection: Any, _record: Any) -> None:
        self.connected += 1

    def _checkout(self, _connection: Any, _record: Any, _fairy: Any) -> None:
        self.out += 1

    def _checkin(self, _connection: Any, _record: Any) -> None:
        self.returned += 1

    def _close(self, _connection: Any, _record: Any) -> None:
        self.closed += 1


def _why_no_otel() -> str | None:
    try:
        version = importlib.metadata.version("opentelemetry-instrumentation-sqlalchemy")
    except importlib.metadata.PackageNotFoundError:
        return "opentelemetry-instrumentation-sqlalchemy is not installed"
    if sqlalchemy.__version__ >= "2.1":
        return f"opentelemetry-instrumentation-sqlalchemy {version} refuses SQLAlchemy {sqlalchemy.__version__}"
    return telemetry.MISSING


RIVALS: Final[dict[str, Rival]] = {
    rival.name: rival
    for rival in (
        Rival(FLOOR, "A list of connections: no pool logic at all.", FloorPool),
        Rival(BARE, "The same list, with a proxy that knows nothing but to roll back and come back.", BarePool),
        Rival(STOCK, "SQLAlchemy's AsyncAdaptedQueuePool, nothing added.", AsyncAdaptedQueuePool),
        Rival(
            LISTENERS,
            "Stock with a counter on connect, checkout, checkin and close.",
            AsyncAdaptedQueuePool,
            on_pool=lambda pool: _Counts().listen(pool),
        ),
        Rival(
            OTEL,
            "Stock with opentelemetry-instrumentation-sqlalchemy, SDK configured.",
            AsyncAdaptedQueuePool,
            on_engine=telemetry.instrument,
            missing=_why_no_otel(),
        ),
        Rival(OURS, "GuardedPool as it comes: call site, leases, telemetry on; no OpenTelemetry SDK configured.", GuardedPool),
        Rival(
            OURS_SDK,
            "GuardedPool as it comes, recording into an OpenTelemetry SDK.",
            GuardedPool,
            telemetry.exporting(),
            missing=telemetry.MISSING,
        ),
        Rival(
            OURS_AT_ONCE,
            "GuardedPool as it comes, but it opens as many connections at one time as are wanted, as stock does, not three.",
            GuardedPool,
            {"guard": {"connect_limit": None}},
        ),
    )
}
