"""The monitor: a task that looks at pools and their servers again and again, and survives whatever happens to them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Self

from sqla_poolguard import _monitored
from sqla_poolguard._monitor.alarms import Alarms, Slots
from sqla_poolguard._monitor.facts import Told
from sqla_poolguard._monitor.join import join, look
from sqla_poolguard._monitor.server import Server
from sqla_poolguard._monitor.settings import Settings
from sqla_poolguard._monitor.standstill import Standstills
from sqla_poolguard._outage import Outage, classify
from sqla_poolguard._snapshot import snapshot
from sqla_poolguard._ticker import lag_of

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sqla_poolguard._monitor.facts import MonitorRow
    from sqla_poolguard._monitor.join import Held
    from sqla_poolguard._monitor.server import Activity
    from sqla_poolguard._pool import GuardedPool

__all__ = ["PoolMonitor"]

_log: Final = logging.getLogger("sqla_poolguard")

_SLOWEST: Final = 60.0
"""Seconds between two attempts to reach a server, at most."""


class PoolMonitor:
    """
    Watches engines, and what their server says of the connections that are out, from a background task.

    `async with PoolMonitor(engine):` in an ASGI lifespan, or `start()` and `await stop()`. For each engine it opens one connection
    of its own, beside the pool, with the engine's own way to connect; it is no checkout and no holder.
    """

    def __init__(
        self,
        engines: AsyncEngine | Engine | Iterable[AsyncEngine | Engine],
        *,
        interval: float = Settings.interval,
        near_capacity: float | None = Settings.near_capacity,
        sustained: float = Settings.sustained,
        starvation: float | None = Settings.starvation,
        idle_in_transaction: float | None = Settings.idle_in_transaction,
        slots_low: int | None = Settings.slots_low,
        timeout: float = Settings.timeout,
    ) -> None:
        """
        Prepare to watch; nothing happens yet.

        Args:
            engines: one or more, each with a `GuardedPool`.
            interval: seconds between two looks.
            near_capacity: share of `pool_size + max_overflow` in use from which to warn; None for never.
            sustained: seconds for which that has been so at every look, at two of them at least, before it is warned of; and for which
                it, or a long wait, has not been so any more, before it is over. 0: one look is enough.
            starvation: seconds that somebody has waited, while nothing is idle, from which to warn; None for never.
            idle_in_transaction: seconds for which a connection that is out has been idle in its transaction from which to warn.
            slots_low: connections that the server has room for at which to warn, or fewer; None for never.
            timeout: seconds for the monitor's own connect, and for an answer.

        Raises:
            TypeError: an engine has no `GuardedPool`, or there is none.
            ValueError: an option is not allowed.
        """
        self._settings = Settings(
            interval=interval,
            near_capacity=near_capacity,
            sustained=sustained,
            starvation=starvation,
            idle_in_transaction=idle_in_transaction,
            slots_low=slots_low,
            timeout=timeout,
        )
        several = tuple(engines) if isinstance(engines, Iterable) else (engines,)
        if not several:
            msg = "PoolMonitor() wants at least one engine"
            raise TypeError(msg)
        for engine in several:
            snapshot(engine)
        self._links = [_Link(engine, self._settings) for engine in several]
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        pools = ", ".join(repr(link.pool().name) for link in self._links)
        return f"<PoolMonitor of {pools}: {'running' if self.is_running else 'not running'}>"

    @property
    def is_running(self) -> bool:
        """Whether its task runs."""
        return self._task is not None and not self._task.done()

    def rows(self) -> tuple[MonitorRow, ...]:
        """Give who held connections at the last look, and what the server said of them, pool by pool, the longest first."""
        return tuple(row for link in self._links for row in link.rows)

    def start(self) -> None:
        """
        Begin to watch, in the running event loop.

        Raises:
            RuntimeError: it runs already, or no event loop does.
        """
        if self.is_running:
            msg = "this PoolMonitor runs already"
            raise RuntimeError(msg)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="poolguard monitor", context=Context())

    async def stop(self) -> None:
        """End the task and close the monitor's connections; nothing happens if it does not run."""
        task, self._task = self._task, None
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            return
        task.cancel()
        await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _run(self) -> None:
        for link in self._links:
            _monitored.begin(link.reporter, link.told)
        try:
            while True:
                # with its exceptions, so that it ends when the last of them has, also where it is cancelled
                await asyncio.gather(*(link.look(self._held) for link in self._links), return_exceptions=True)
                await asyncio.sleep(self._settings.interval)
        finally:
            for link in self._links:
                _monitored.end(link.reporter, link.told)
            try:
                await asyncio.gather(*(link.server.close() for link in self._links), return_exceptions=True)
            finally:
                for link in self._links:  # cancelled once more
                    link.server.drop()

    def _held(self) -> list[Held]:
        return [held for link in self._links for held in link.held]


class _Link:
    """One engine and its server."""

    def __init__(self, engine: Any, settings: Settings) -> None:
        self._engine, self._settings = engine, settings
        self.server = Server(self.pool, settings.timeout)
        self.held: list[Held] = []
        self.rows: tuple[MonitorRow, ...] = ()
        self.reporter = self.pool()._watch.reporter
        """Of all pools that the engine has, one after the other."""
        self._seen_at: float | None = None
        self._trouble: str | None = None
        self._alarms = Alarms(settings)
        self._fails, self._next_try = 0, 0.0
        self._standstills = Standstills()
        self._said_pooled = self._said_failed = False
        self._is_postgres = getattr(self.pool()._dialect, "name", None) == "postgresql"
        if not self._is_postgres:
            self._trouble = "only PostgreSQL is asked"

    def pool(self) -> GuardedPool:
        """Give the engine's pool: after `dispose()` it is another one."""
        pool: GuardedPool = self._engine.pool
        return pool

    def told(self) -> Told | None:
        """Give what is known since the last look; None before the first."""
        return Told(time.monotonic() - self._seen_at, self._trouble, self.rows) if self._seen_at is not None else None

    async def look(self, everybody: Any) -> None:
        """Look once; whatever goes wrong is said, and not raised."""
        try:
            pool = self.pool()
            self.held = look(pool)
            activity, slots = await self._ask(pool.name) if self._is_postgres else (None, None)
            self.rows = join(self.held, activity, everybody())
            self._seen_at = time.monotonic()
            loop = asyncio.get_running_loop()
            self._standstills.look(loop.time(), lag_of(loop)())
            news, over = self._alarms.judge(
                pool.snapshot(), self.rows, slots, now=loop.time(), stood_still=self._standstills.within
            )
            for alarm in news:
                _log.warning("%s: pool %r: %s", alarm.kind, alarm.pool, alarm.text, extra={"poolguard": alarm})
            for kind, name in over:
                _log.info("%s: pool %r: over", kind, name)
        except Exception:  # noqa: BLE001 - a monitor must not die of what it looks at
            if not self._said_failed:
                self._said_failed = True
                _log.exception("the monitor failed at a look; its further failures are not logged")

    async def _ask(self, name: str) -> tuple[Activity | None, Slots | None]:
        """Ask the server, unless it was out of reach just now; less and less often while it is."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_try:
            return None, None
        try:
            activity = await self.server.ask()
        except Exception as error:  # noqa: BLE001 - down, full, stalled, restarted: it is tried again
            self._fails += 1
            self._trouble = "the server cannot be asked"
            self._next_try = loop.time() + min(self._settings.interval * 2 ** min(self._fails, 16), _SLOWEST)
            why = classify(error)
            if self._fails == 1:
                _log.warning(
                    "pool %r: the monitor cannot ask the server (%s): %s; it goes on trying, and watches the pool meanwhile",
                    name,
                    why if why is not Outage.NONE else "no answer",
                    type(error).__name__,
                )
            return None, Slots(0, None) if why is Outage.FULL else None
        if self._fails:
            _log.warning("pool %r: the monitor can ask the server again", name)
        self._fails = 0
        self._trouble = "behind a pooler the sessions of connections cannot be told" if activity.pooled else None
        if activity.pooled and not self._said_pooled:
            self._said_pooled = True
            _log.warning(
                "pool %r: the monitor is behind a pooler, or its driver tells no process: "
                "which session of the server a connection has cannot be told, so holders are shown without",
                name,
            )
        return activity, Slots(activity.free, activity.slots, activity.bound)
