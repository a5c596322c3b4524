"""A fake asyncio driver whose every step has a gate, and which counts what a server would see."""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections import Counter
from typing import Any

import greenlet
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.util.concurrency import await_only, greenlet_spawn

__all__ = ["FakeConnection", "FakeDriver", "Gate", "greenlet_spawn"]


def in_greenlet() -> bool:
    """Tell whether one can await here; as SQLAlchemy does, whose older lines have no such function."""
    return getattr(greenlet.getcurrent(), "__sqlalchemy_greenlet_provider__", False)


class Gate(enum.Enum):
    """What happens at a step."""

    OK = "ok"
    ERROR = "error"
    SLOW = "slow"
    """It takes `FakeDriver.delay` seconds."""
    NEVER = "never"
    """It waits until `FakeDriver.let` is called, or its task is cancelled."""


class FakeDriver:
    """
    A driver and its server.

    The gates `connect`, `ping`, `rollback`, `close` may be changed at any time.
    """

    def __init__(
        self,
        connect: Gate = Gate.OK,
        ping: Gate = Gate.OK,
        rollback: Gate = Gate.OK,
        close: Gate = Gate.OK,
        delay: float = 0.25,
    ) -> None:
        self.connect, self.ping, self.rollback, self.close, self.delay = connect, ping, rollback, close, delay
        self.begun: Counter[str] = Counter()
        """How often each step was begun."""
        self.connections: list[FakeConnection] = []
        """Every connection there ever was."""
        self.connecting = 0
        self.most = 0
        """The most connections, open or being opened, at one time."""
        self.inside: set[FakeConnection] = set()
        """Connections that are open, detached ones not included."""
        self._numbers = itertools.count(1)
        self._held: list[tuple[str, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        return f"<FakeDriver {self.opened} opened, {self.open_now} open, {self.connecting} connecting>"

    @property
    def opened(self) -> int:
        """Connections opened."""
        return len(self.connections)

    @property
    def open_now(self) -> int:
        """Connections open, detached ones included."""
        return sum(connection.is_open for connection in self.connections)

    @property
    def live(self) -> int:
        """Connections that a pool's limit bounds: open or being opened, not detached."""
        return self.connecting + len(self.inside)

    def open(self) -> FakeConnection:
        """Open a connection: the creator to give to an engine."""
        self.connecting += 1
        self.most = max(self.most, self.live)
        try:
            await_only(self.through("connect"))
            connection = FakeConnection(self, next(self._numbers))
            self.connections.append(connection)
            self.inside.add(connection)
            return connection
        finally:
            self.connecting -= 1

    def let(self, step: str) -> int:
        """Let through everybody who stands before a gate that never opens; tell how many."""
        through = [future for held, future in self._held if held == step and not future.done()]
        for future in through:
            future.set_result(None)
        return len(through)

    async def through(self, step: str) -> None:
        """Pass the gate of a step."""
        self.begun[step] += 1
        gate: Gate = getattr(self, step)
        if gate is Gate.SLOW:
            await asyncio.sleep(self.delay)
        elif gate is Gate.NEVER:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._held.append((step, future))
            await future
        elif gate is Gate.ERROR:
            if step in {"connect", "close"}:
                message = f"the fake driver refuses to {step}"
                raise OSError(message)
            message = "connection is closed"
            raise AsyncAdapt_asyncpg_dbapi.InterfaceError(message)


class FakeConnection:
    """What a dialect makes of a driver's connection; where it awaits, it does so as asyncpg's does."""

    def __init__(self, driver: FakeDriver, number: int) -> None:
        self.driver, self.number, self.is_open = driver, number, True
        self._connection = self

    def __repr__(self) -> str:
        return f"<FakeConnection {self.number} {'open' if self.is_open else 'closed'}>"

    def is_closed(self) -> bool:
        """Tell SQLAlchemy, after an error, whether it was a disconnect."""
        return not self.is_open or self.driver.ping is Gate.ERROR

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        await_only(self.driver.through("ping"))

    def rollback(self) -> None:
        """Reset."""
        if self.driver.rollback is not Gate.OK:
            await_only(self.driver.through("rollback"))
        else:
            self.driver.begun["rollback"] += 1

    def commit(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close; who is interrupted has closed all the same, as in asyncpg."""
        try:
            await_only(self.driver.through("close"))
        finally:
            self.gone()

    def terminate(self) -> None:
        """Close at once, gracefully where one can wait: SQLAlchemy's `AsyncAdapt_terminate`."""
        if in_greenlet():
            try:
                await_only(asyncio.shield(self._close_gracefully()))
            except (TimeoutError, asyncio.CancelledError, OSError) as error:
                self.gone()
                if isinstance(error, asyncio.CancelledError):
                    raise
        self.gone()

    def leave(self) -> None:
        """Note that it was detached, so that no pool's limit bounds it any more."""
        self.driver.inside.discard(self)

    def gone(self) -> None:
        """Be closed, at once."""
        self.is_open = False
        self.driver.inside.discard(self)

    async def _close_gracefully(self) -> None:
        async with asyncio.timeout(2):
            await self.driver.through("close")

    def cursor(self, **_: Any) -> FakeCursor:
        """Give a cursor that finds nothing."""
        return FakeCursor()


class FakeCursor:
    """Executes anything, finds nothing."""

    description = None
    rowcount = -1

    def execute(self, *_: Any) -> None:
        """Let the others run for one turn."""
        await_only(asyncio.sleep(0))

    def close(self) -> None:
        """Do nothing."""
