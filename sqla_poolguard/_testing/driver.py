"""A fake asyncio driver and its server: every step has a gate, and what a server would see is counted. No network, no database."""

from __future__ import annotations

import asyncio
import enum
import itertools
import math
from asyncio import sleep
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import greenlet
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util.concurrency import await_only

from sqla_poolguard._pool import GuardedPool
from sqla_poolguard._testing.cursors import FakeContext, FakeCursor, FakeStream

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["FakeConnection", "FakeDriver", "Gate"]

_URL: Final = "postgresql+asyncpg://fake@fake/fake"


class Gate(enum.Enum):
    """What happens at a step."""

    OK = "ok"
    ERROR = "error"
    """It fails, as it does when the server is gone."""
    SLOW = "slow"
    """It takes `FakeDriver.delay` seconds."""
    NEVER = "never"
    """It waits until `FakeDriver.let` is called, or its task is cancelled."""


class _Step:
    """A gate of a driver, which can be set to its value too."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, driver: FakeDriver, _: type | None = None) -> Gate:
        gate: Gate = driver.__dict__[self._name]
        return gate

    def __set__(self, driver: FakeDriver, value: Gate | str) -> None:
        try:
            driver.__dict__[self._name] = Gate(value)
        except ValueError:
            allowed = ", ".join(gate.value for gate in Gate)
            msg = f"FakeDriver.{self._name}={value!r} is not allowed; allowed: {allowed}"
            raise ValueError(msg) from None


class FakeDriver:
    """
    A driver and its server. It stands for asyncpg, which need not be installed.

    The gates `connect`, `ping`, `execute`, `rollback` and `close` may be changed at any time, to a `Gate` or its value.
    Statements find nothing, whatever they say; a stream (`connection.stream`) has the columns of its statement, and no rows.
    """

    connect: _Step = _Step()
    ping: _Step = _Step()
    execute: _Step = _Step()
    rollback: _Step = _Step()
    close: _Step = _Step()

    def __init__(
        self,
        connect: Gate | str = Gate.OK,
        ping: Gate | str = Gate.OK,
        rollback: Gate | str = Gate.OK,
        close: Gate | str = Gate.OK,
        delay: float = 0.25,
        *,
        execute: Gate | str = Gate.OK,
    ) -> None:
        """
        Make a driver whose server has not been asked anything yet.

        Args:
            connect: the gate of opening a connection; the others likewise.
            ping: of asking for a sign of life.
            rollback: of a rollback, the reset of a connection that comes back included.
            close: of closing a connection.
            delay: seconds that a slow step takes.
            execute: of executing a statement.

        Raises:
            ValueError: a gate is none, or the delay is no number of seconds.
        """
        self.delay = delay
        self.connect, self.ping, self.execute = connect, ping, execute
        self.rollback, self.close = rollback, close
        self.begun: Counter[str] = Counter()
        """How often each step was begun."""
        self.connections: list[FakeConnection] = []
        """Every connection there ever was."""
        self.connecting = 0
        """Connections that are being opened."""
        self.most = 0
        """The most connections, open or being opened, at one time."""
        self.inside: set[FakeConnection] = set()
        """Connections that are open, detached ones not included."""
        self._numbers = itertools.count(1)
        self._held: list[tuple[str, asyncio.Future[None]]] = []

        self._is_complete = True

    def __setattr__(self, name: str, value: Any) -> None:
        if type(self) is FakeDriver and "_is_complete" in vars(self) and not hasattr(self, name):
            gates = ", ".join(step for step, found in vars(FakeDriver).items() if isinstance(found, _Step))
            msg = f"FakeDriver has no {name!r} to set to {value!r}; allowed: the gates {gates}, and delay"
            raise AttributeError(msg)
        if name == "delay" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf):
            msg = f"FakeDriver.delay={value!r} is not allowed; allowed: a number of seconds, 0 or more"
            raise ValueError(msg)
        super().__setattr__(name, value)

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

    def engine(self, **options: Any) -> AsyncEngine:
        """
        Make an engine on this driver, with a `GuardedPool`.

        Args:
            options: those of `create_async_engine`.
        """
        options.setdefault("poolclass", GuardedPool)
        dbapi = AsyncAdapt_asyncpg_dbapi(None)  # type: ignore[no-untyped-call]
        engine = create_async_engine(_URL, creator=self.open, module=dbapi, _initialize=False, **options)
        engine.dialect.execution_ctx_cls = FakeContext
        return engine

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
        """
        Pass the gate of a step.

        Raises:
            OSError: the gate to connect or to close is `ERROR`.
            AsyncAdapt_asyncpg_dbapi.InterfaceError: another gate is.
        """
        self.begun[step] += 1
        gate: Gate = getattr(self, step)
        if gate is Gate.SLOW:
            await sleep(self.delay)
        elif gate is Gate.NEVER:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._held.append((step, future))
            await future
        elif gate is Gate.ERROR:
            if step in {"connect", "close"}:
                message = f"the fake driver refuses to {step}"
                raise OSError(message)
            message = "connection is closed"
            raise AsyncAdapt_asyncpg_dbapi.InterfaceError(message)  # type: ignore[no-untyped-call]

    async def answer(self) -> None:
        """Pass the gate of a statement; if that is open, let the others run for one turn."""
        if self.execute is Gate.OK:
            self.begun["execute"] += 1
            await sleep(0)
        else:
            await self.through("execute")


class FakeConnection:
    """What a dialect makes of a driver's connection; where it awaits, it does so as asyncpg's does."""

    def __init__(self, driver: FakeDriver, number: int) -> None:
        self.driver, self.number, self.is_open = driver, number, True
        self._connection = self

    def __repr__(self) -> str:
        return f"<FakeConnection {self.number} {'open' if self.is_open else 'closed'}>"

    def is_closed(self) -> bool:
        """Tell SQLAlchemy, after an error, whether it was a disconnect."""
        return not self.is_open or Gate.ERROR in {self.driver.ping, self.driver.execute}

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
        if _in_greenlet():
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

    def cursor(self, *, server_side: bool = False) -> FakeCursor:
        """Give a cursor that finds nothing; one for a stream says so by columns without rows."""
        return FakeStream(self.driver) if server_side else FakeCursor(self.driver)


def _in_greenlet() -> bool:
    """Tell whether one can await here; as SQLAlchemy does, whose older lines have no such function."""
    return getattr(greenlet.getcurrent(), "__sqlalchemy_greenlet_provider__", False)
