"""Other ways to say no, on the same clients: CoDel as in Ecto's db_connection, and a queue of a fixed length."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy.exc
from doubles.pools import TimedPool
from doubles.world import STOCK
from sqlalchemy.pool import Pool
from sqlalchemy.util.concurrency import await_only

if TYPE_CHECKING:
    from doubles.demands import Demand
    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["RIVALS", "CoDelPool", "MaxWaiting", "is_fair"]


class CoDelPool(Pool):
    """
    A queue that is served in order, as that of Ecto's db_connection is (its `connection_pool.ex`).

    The shortest wait of each interval is compared with a target. When it was longer, whoever has waited for more than twice
    the target is dropped in the next interval, when its turn comes; also when nothing moves for an interval.
    Connecting is SQLAlchemy's, in the request: db_connection's processes, which connect on their own, are not modelled.
    """

    target: ClassVar[float] = 0.05
    """Seconds; the default of `queue_target`."""
    interval: ClassVar[float] = 2.0
    """Seconds; the default of `queue_interval`."""

    def __init__(self, creator: Any, pool_size: int, **options: Any) -> None:
        """Make one of a fixed size; nobody is turned away but those that are dropped."""
        super().__init__(creator, reset_on_return=options["reset_on_return"])
        self._free = pool_size
        self._idle: deque[ConnectionPoolEntry] = deque()
        self._queue: deque[tuple[float, asyncio.Future[ConnectionPoolEntry]]] = deque()
        self._shortest, self._slow, self._next = 0.0, False, -math.inf
        self._polls = False

    def _do_get(self) -> ConnectionPoolEntry:
        loop = asyncio.get_running_loop()
        if not self._polls:
            self._polls = True
            loop.call_later(self.interval, self._poll, loop.time())
        if self._idle:
            return self._idle.popleft()
        if self._free:
            self._free -= 1
            try:
                return self._create_connection()
            except BaseException:
                self._free += 1
                raise
        future: asyncio.Future[ConnectionPoolEntry] = loop.create_future()
        self._queue.append((loop.time(), future))
        return await_only(future)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        now = asyncio.get_running_loop().time()
        is_first = now >= self._next
        if is_first:
            self._slow, self._next = self._shortest > self.target, now + self.interval
        while self._queue:
            sent, future = self._queue.popleft()
            if future.done():
                continue
            waited = now - sent
            if self._slow and not is_first and waited > 2 * self.target:
                self._drop(future)
                continue
            self._shortest = waited if is_first else min(waited, self._shortest)
            future.set_result(record)
            return
        self._shortest = 0.0
        self._idle.append(record)

    def _poll(self, last_sent: float) -> None:
        """Look whether the queue has moved since the last time."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._queue and self._queue[0][1].done():
            self._queue.popleft()
        oldest = self._queue[0][0] if self._queue else now
        if self._queue and oldest <= last_sent and now >= self._next:
            self._slow = self._shortest > self.target
            self._shortest, self._next = now - oldest, now + self.interval
            while self._slow and self._queue and now - self._queue[0][0] > 2 * self.target:
                self._drop(self._queue.popleft()[1])
        loop.call_later(self.interval, self._poll, oldest)

    @staticmethod
    def _drop(future: asyncio.Future[ConnectionPoolEntry]) -> None:
        if not future.done():
            future.set_exception(sqlalchemy.exc.TimeoutError("dropped from the queue"))


class MaxWaiting(TimedPool):
    """GuardedPool with nothing but a queue of a fixed length: five for each of ten connections."""

    options: ClassVar[dict[str, Any]] = {"fail_fast": False, "max_waiting": 50, "breaker": False}


RIVALS: dict[str, type[Pool]] = {"stock": STOCK, "codel": CoDelPool, "max_waiting": MaxWaiting}


def is_fair(rival: type[Pool], demand: Demand) -> bool:
    """Tell whether a rival can be measured by a demand."""
    return not (rival is CoDelPool and demand.name.startswith("outage"))
