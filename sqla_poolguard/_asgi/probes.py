"""Liveness and readiness for an orchestrator. Both look at counters only: a probe must not wait in the queue it judges."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._asgi.reply import public_name
from sqla_poolguard._asgi.words import answer_json
from sqla_poolguard._snapshot import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sqla_poolguard._asgi.words import Receive, Scope, Send
    from sqla_poolguard._facts import PoolSnapshot
    from sqla_poolguard._pool import GuardedPool

__all__ = ["Liveness", "Readiness", "liveness", "readiness"]

_APART: Final = 1.0
"""Seconds between two readings that count: several probers make no reading of one moment into several."""


class Liveness:
    """Says that the event loop turns, and nothing of the database: a restart opens no connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 200."""
        del receive
        await answer_json(scope, send, 200, {"status": "alive"})


class Readiness:
    """
    Judges pools over time, one reading per request: a pool is stalled that is full and gets nothing back.

    A full pool alone is a busy one. A verdict needs several readings, so that one burst does not take all replicas out.
    """

    def __init__(
        self,
        engines: tuple[AsyncEngine | Engine | GuardedPool, ...],
        stalled_after: float,
        readings: tuple[int, int],
        clock: Callable[[], float],
        *,
        leave_rotation: bool,
    ) -> None:
        self._engines = engines
        self._courses = [Course(stalled_after, *readings) for _ in engines]
        self._clock = clock
        self._leaves = leave_rotation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, and answer 200, or 503 when it is time to leave the rotation."""
        del receive
        now = self._clock()
        pools = [
            course.read(snapshot(engine), _taken(engine), now)
            for engine, course in zip(self._engines, self._courses, strict=True)
        ]
        stalled = any(course.stalled for course in self._courses)
        leaves = stalled and self._leaves
        status = "not ready" if leaves else "stalled" if stalled else "ready"
        await answer_json(scope, send, 503 if leaves else 200, {"status": status, "pools": pools})


class Course:
    """How one pool has been, as far as readings tell."""

    __slots__ = ("_bad", "_good", "_last", "_mark", "_needed", "_patience", "_since", "stalled")

    def __init__(self, stalled_after: float, readings: int, recoveries: int) -> None:
        self.stalled = False
        """The verdict so far."""
        self._patience = stalled_after
        self._needed = readings, recoveries
        self._bad = self._good = 0
        self._mark: int | None = None
        """Leases that had ended at the first reading of this standstill; None while the pool is not full."""
        self._since = self._last = -math.inf

    def read(self, seen: PoolSnapshot, taken: int, now: float) -> dict[str, Any]:
        """Take a reading, and describe it."""
        full = seen.limit is not None and taken >= seen.limit
        mark = sum(seen.ended.values()) if full else None
        if mark != self._mark or not full:
            self._mark, self._since = mark, now
        still = now - self._since
        if now - self._last >= _APART:
            self._last = now
            self._count(bad=still >= self._patience)
        described: dict[str, Any] = {
            "used": seen.used,
            "limit": seen.limit,
            "waiting": seen.waiting,
            "full": full,
            "no_checkin_for": round(still, 3),
            "stalled": self.stalled,
        }
        name = public_name(seen.pool)
        return described if name is None else {"pool": name, **described}

    def _count(self, *, bad: bool) -> None:
        self._bad, self._good = (self._bad + 1, 0) if bad else (0, self._good + 1)
        readings, recoveries = self._needed
        if self._bad >= readings:
            self.stalled = True
        elif self._good >= recoveries:
            self.stalled = False


def liveness() -> Liveness:
    """Make an ASGI endpoint that answers 200 while the event loop turns."""
    return Liveness()


def readiness(
    *engines: AsyncEngine | Engine | GuardedPool,
    leave_rotation: bool = False,
    stalled_after: float = 10.0,
    readings: int = 3,
    recoveries: int = 2,
    clock: Callable[[], float] = time.monotonic,
) -> Readiness:
    """
    Make an ASGI endpoint that tells whether pools move. It never takes a connection.

    A pool is stalled when it is full and no connection has come back for `stalled_after` seconds, `readings` times in a row.
    By default the answer is 200 all the same, and only its body tells: where all replicas share one database,
    they would leave the rotation together, and nobody would be left to answer.

    Args:
        engines: the engines to look at, each with a `GuardedPool`.
        leave_rotation: answer 503 while a pool is stalled.
        stalled_after: seconds, from the first reading that finds the pool full.
        readings: bad ones in a row after which a pool is stalled; those less than a second apart count as one.
        recoveries: good ones in a row after which it is not any more.
        clock: tells the time, in seconds.

    Raises:
        TypeError: an engine has no `GuardedPool`, or there is none.
        ValueError: an option has a value that is not allowed; the message names the option, the value and what is allowed.
    """
    if not engines:
        msg = "readiness() wants at least one engine"
        raise TypeError(msg)
    for engine in engines:
        snapshot(engine)
    seconds = isinstance(stalled_after, (int, float)) and not isinstance(stalled_after, bool) and 0 < stalled_after < math.inf
    for name, value, right, allowed in (
        ("leave_rotation", leave_rotation, leave_rotation in (True, False), "True or False"),
        ("stalled_after", stalled_after, seconds, "a number of seconds, more than 0"),
        ("readings", readings, _is_count(readings), "a whole number, 1 or more"),
        ("recoveries", recoveries, _is_count(recoveries), "a whole number, 1 or more"),
    ):
        if not right:
            msg = f"{name}={value!r} is not allowed; allowed: {allowed}"
            raise ValueError(msg)
    return Readiness(engines, stalled_after, (readings, recoveries), clock, leave_rotation=leave_rotation)


def _taken(engine: Any) -> int:
    """Count the slots that are taken, without those of a pool that was replaced; a snapshot has the leases of both."""
    pool: GuardedPool = getattr(engine, "pool", engine)
    return pool.checkedout()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
