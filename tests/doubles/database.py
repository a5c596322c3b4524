"""A database with an outage: what becomes of who connects, and of the connections that are open. It knows no pool."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, NamedTuple

from asyncpg.exceptions import TooManyConnectionsError
from sqlalchemy.util.concurrency import await_only

if TYPE_CHECKING:
    import random

RESENT = (1.0, 3.0, 7.0)
"""Seconds after which a packet that opens a connection is sent again."""
CONNECT_TIMEOUT = 5.0
"""The driver's own, in seconds."""
CROWDED = 0.15
"""By how much longer a connect takes, for each other one that is under way."""
REFUSAL = 0.002
"""Seconds until a database that is there says no."""


class Kind(enum.StrEnum):
    """What an outage is like."""

    REFUSED = "refused"
    """Nobody listens: connects fail at once, and the connections that were open are dead."""
    BLACK_HOLE = "black hole"
    """Nothing answers: connects hang, and the connections that were open are dead."""
    HUNG = "hung"
    """The server is there and does nothing: connects hang, and so do queries, until it is started anew at the end; then all are dead."""
    FULL = "full"
    """Others have taken the places of some connections, and take what gets free: connects are refused, the other connections serve."""


class Outage(NamedTuple):
    """From when to when, in seconds of the scene, and of what kind."""

    kind: Kind
    start: float
    end: float
    lost: int = 0
    """Connections that are lost when it begins, of a server that is full. The pool knows: who had one said that it is broken."""


class Lost(Exception):  # noqa: N818 - what happened, not what went wrong with the test
    """The connection is dead, as the driver says it where SQLAlchemy takes it for a disconnect."""


class Connection:
    """A connection that costs nothing."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.dead = False
        self.query: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        """When the query is done; None where it hangs."""

    def rollback(self) -> None:
        """Do nothing."""

    commit = rollback

    def close(self) -> None:
        """Leave the database."""
        self.database.open.pop(self, None)

    terminate = close

    def die(self) -> None:
        """Be dead, and tell who works with it."""
        self.dead = True
        if self.query is not None and not self.query.done():
            self.hang()
            self.query.set_exception(Lost())

    def hang(self) -> None:
        """Answer no more."""
        if self.timer is not None:
            self.timer.cancel()


class Database:
    """What the connections of a pool lead to."""

    def __init__(self, cost: tuple[float, float], outage: Outage | None, rnd: random.Random) -> None:
        """
        Be there.

        Args:
            cost: seconds that a connect takes, from and to.
            outage: that is to come.
            rnd: draws what a connect takes.
        """
        self.cost, self.outage, self.rnd = cost, outage, rnd
        self.down: Kind | None = None
        self.begun: list[float] = []
        """When connects were begun, on the loop's clock."""
        self.under_way = 0
        self.to_lose = 0
        """Connections that are still to be lost."""
        self.open: dict[Connection, None] = {}

    def expect(self, began: float) -> None:
        """Let the outage come in the running loop, where the scene began at that time."""
        if self.outage is not None:
            loop = asyncio.get_running_loop()
            loop.call_at(began + self.outage.start, self.fall, self.outage)
            loop.call_at(began + self.outage.end, self.rise, self.outage)

    def fall(self, outage: Outage) -> None:
        """Begin the outage."""
        self.down, self.to_lose = outage.kind, outage.lost
        if outage.kind is Kind.HUNG:
            for connection in self.open:
                connection.hang()
        elif outage.kind is not Kind.FULL:
            self._kill()

    def rise(self, outage: Outage) -> None:
        """End it."""
        self.down = None
        if outage.kind is Kind.HUNG:
            self._kill()

    def _kill(self) -> None:
        for connection in self.open:
            connection.die()
        self.open.clear()

    def connect(self) -> Connection:
        """
        Open a connection, in a greenlet: the creator to give to a pool.

        Raises:
            OSError: nobody answers, or not in time.
            TooManyConnectionsError: the server is full.
        """
        self.begun.append(asyncio.get_running_loop().time())
        self.under_way += 1
        try:
            if self.cost[1] or self.down is not None:
                await_only(self._connect())
        finally:
            self.under_way -= 1
        connection = Connection(self)
        self.open[connection] = None
        return connection

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                cost = self.rnd.uniform(*self.cost) * (1 + CROWDED * (self.under_way - 1))
                await self._reach()
                await asyncio.sleep(cost)
                if self.down is not None:  # meanwhile
                    await self._reach()
                    raise ConnectionResetError
        except TimeoutError:
            message = "no answer"
            raise TimeoutError(message) from None

    async def _reach(self) -> None:
        """Wait until the first packet is answered; fail if the answer is no."""
        if self.down in {Kind.REFUSED, Kind.FULL}:
            await asyncio.sleep(REFUSAL)
            raise TooManyConnectionsError("sorry, too many clients already") if self.down is Kind.FULL else ConnectionRefusedError
        waited = 0.0
        for resent in RESENT:
            if self.down is None:
                return
            await asyncio.sleep(resent - waited)
            waited = resent

    def work(self, connection: Connection, seconds: float) -> bool:
        """
        Run a query, in a greenlet.

        Returns:
            Whether the connection can be used again.

        Raises:
            Lost: it is dead.
        """
        if connection.dead:
            raise Lost
        loop = asyncio.get_running_loop()
        connection.query = query = loop.create_future()
        if self.down is not Kind.HUNG:
            connection.timer = loop.call_later(seconds, _finish, query)
        try:
            await_only(query)
        finally:
            connection.hang()
            connection.query = connection.timer = None
        if not self.to_lose:
            return True
        self.to_lose -= 1
        return False


def _finish(query: asyncio.Future[None]) -> None:
    if not query.done():
        query.set_result(None)
