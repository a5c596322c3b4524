"""Engines on the fake driver, in virtual time, and ways to look at them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import create_async_engine

from doubles.driver import FakeDriver
from doubles.virtual import VirtualLoop, turns, virtual_time
from sqla_poolguard import GuardedPool, Observer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from sqla_poolguard._breaker import Breaker
    from sqla_poolguard._ledger import Ledger

URL = "postgresql+asyncpg://u:p@h/db"


class TimedPool(GuardedPool):
    """A GuardedPool on the event loop's clock."""

    _clock = staticmethod(virtual_time)


def engine(driver: FakeDriver | None = None, *, pool: type[GuardedPool] = TimedPool, **options: Any) -> AsyncEngine:
    """Make an engine on the fake driver."""
    creator = (driver or FakeDriver()).open
    return create_async_engine(URL, creator=creator, _initialize=False, poolclass=pool, **options)


def pool_of(engine: AsyncEngine) -> TimedPool:
    """Give an engine's pool."""
    return engine.sync_engine.pool  # type: ignore[return-value]


def ledger_of(engine: AsyncEngine) -> Ledger:
    """Give the books of an engine's pool."""
    return pool_of(engine)._ledger


def ended(engine: AsyncEngine) -> dict[str, int]:
    """Tell how leases ended, without the zeros."""
    return {str(ending): count for ending, count in ledger_of(engine).ended.items() if count}


def rejected(engine: AsyncEngine) -> dict[str, int]:
    """Tell why requests got nothing, without the zeros."""
    return {str(reason): count for reason, count in ledger_of(engine).rejected.items() if count}


def at_rest(engine: AsyncEngine, idle: int | None = None) -> None:
    """Assert that nobody holds or waits, that the laws hold and that no slot is lost."""
    ledger, slots = ledger_of(engine), pool_of(engine)._slots
    ledger.check()
    assert ledger.waiting == 0
    assert ledger.leases() == []
    assert slots.taken == len(slots.idle) == len(slots.records)
    assert pool_of(engine)._watch.trail.courses == {}
    assert idle is None or idle == len(slots.idle)


@contextlib.asynccontextmanager
async def all_out(engine: AsyncEngine, count: int) -> AsyncIterator[list[AsyncConnection]]:
    """Hold so many connections."""
    out = []
    for _ in range(count):
        out.append(await engine.connect())  # noqa: PERF401 - a comprehension has a frame of its own in Python 3.11
    try:
        yield out
    finally:
        for connection in out:
            await connection.close()


async def queue_up(engine: AsyncEngine, order: list[Any], *names: Any, hold: float = 0.0) -> list[asyncio.Task[None]]:
    """Let tasks ask, one after the other; each notes its name when it gets a connection, and holds it for some seconds."""

    async def ask(name: Any) -> None:
        async with engine.connect():
            order.append(name)
            await asyncio.sleep(hold)

    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(ask(name), name=str(name)))
        await turns()
    return tasks


def elapsed() -> float:
    """Seconds since the loop began."""
    return asyncio.get_running_loop().time() - VirtualLoop.start


def breaker_of(engine: AsyncEngine) -> Breaker:
    """Give the breaker of a pool."""
    return pool_of(engine)._slots.breaker


async def ask(engine: AsyncEngine, hold: float = 0.0) -> float | Exception:
    """Ask for a connection; give the seconds after which it came, or the error with these."""
    begun = elapsed()
    try:
        async with engine.connect():
            waited = elapsed() - begun
            await asyncio.sleep(hold)
            return waited
    except Exception as error:  # noqa: BLE001 - it is looked at
        error.after = elapsed() - begun  # type: ignore[attr-defined] # it is new
        return error


class Recorder(Observer):
    """Remembers every fact, as (event, fact)."""

    def __init__(self) -> None:
        self.facts: list[tuple[str, Any]] = []

    def of(self, event: str) -> list[Any]:
        """Give the facts of one kind."""
        return [fact for kind, fact in self.facts if kind == event]

    def granted(self, holder: Any) -> None:
        """Remember a fact."""
        self.facts.append(("granted", holder))

    def ended(self, checkout: Any) -> None:
        """Remember a fact."""
        self.facts.append(("ended", checkout))

    def waited(self, wait: Any) -> None:
        """Remember a fact."""
        self.facts.append(("waited", wait))

    def rejected(self, rejection: Any) -> None:
        """Remember a fact."""
        self.facts.append(("rejected", rejection))

    def opened(self, opened: Any) -> None:
        """Remember a fact."""
        self.facts.append(("opened", opened))

    def overdue(self, holder: Any) -> None:
        """Remember a fact."""
        self.facts.append(("overdue", holder))

    def returned(self, checkout: Any) -> None:
        """Remember a fact."""
        self.facts.append(("returned", checkout))

    def leaked(self, checkout: Any) -> None:
        """Remember a fact."""
        self.facts.append(("leaked", checkout))
