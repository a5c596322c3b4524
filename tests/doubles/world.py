"""A world of clients that ask one pool for connections, in virtual time: the load is theirs, and does not wait for answers."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy.exc
from asyncpg import PostgresError
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util.concurrency import greenlet_spawn

from doubles.database import Database, Lost
from doubles.outcome import Attempt, Outcome, Request
from doubles.pools import TimedPool
from doubles.virtual import VirtualLoop
from sqla_poolguard import DatabaseUnavailable, Guard, priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from doubles.database import Outage

LEVELS = ("critical", "normal", "sheddable")
STOCK = AsyncAdaptedQueuePool
NO_CONNECTION = (sqlalchemy.exc.TimeoutError, DatabaseUnavailable, OSError, PostgresError)
"""How a pool says no, or lets the driver say it."""


def guard(**options: Any) -> Guard:
    """Give the options of a pool that turns away, and watches nothing else."""
    silent = {"hold_warning": None, "await_warning": None, "telemetry": False}
    return Guard(**{"fail_fast": True, **silent, **options})


@dataclass(frozen=True)
class Scene:
    """What happens. Load is in multiples of what the connections can serve; retries come on top."""

    load: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    """(second, load from then on)."""
    seconds: float = 25.0
    warmup: float = 10.0
    """Seconds that are not looked at: a queue is told from a burst after two seconds."""
    connections: int = 10
    hold: float = 0.05
    """Mean, in seconds."""
    shape: str = "exponential"
    """Of the holds: exponential, lognormal (sigma 1.5) or bimodal (95 % short, 5 % thirty times as long)."""
    patience: float = 1.0
    """Seconds after which a client gives up an attempt; the server does not notice, and works on."""
    retries: int = 3
    backoff: float = 0.2
    """Of the first retry, in seconds; doubled each time up to 2, and drawn between 0 and that."""
    obey: bool = False
    """Whether clients wait as long as they were told (whole seconds, at least 1, and up to 1 of their own)."""
    bursts: tuple[tuple[float, int], ...] = ()
    """(second, requests at once)."""
    slow: tuple[float, float, float] = (math.inf, math.inf, 1.0)
    """(from second, to second, how many times slower the database is)."""
    leaks: tuple[tuple[float, int, float], ...] = ()
    """(second, holders that from then on keep their connection, for so many seconds)."""
    levels: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """Shares of critical, normal and sheddable requests."""
    connect: tuple[float, float] = (0.0, 0.0)
    """Seconds that a connect takes, from and to."""
    outage: Outage | None = None
    """Of the database."""


def drawer(shape: str, hold: float, rnd: random.Random) -> Callable[[], float]:
    """Give a function that draws holds of a shape with that mean."""
    if shape == "exponential":
        return lambda: rnd.expovariate(1 / hold)
    if shape == "lognormal":
        return lambda: hold * rnd.lognormvariate(-(1.5**2) / 2, 1.5)
    return lambda: hold * (0.4 * rnd.uniform(0.5, 1.5) if rnd.random() < 0.95 else 12.4 * rnd.uniform(0.7, 1.3))


class World:
    """One run of one scene."""

    def __init__(self, scene: Scene, database: Database, pool: Any, seed: int) -> None:
        """
        Begin, in the running loop.

        Args:
            scene: what happens.
            database: whom it happens to.
            pool: of connections to it.
            seed: of everything that is drawn.
        """
        self.scene, self.database, self.pool = scene, database, pool
        self.loop = asyncio.get_running_loop()
        self.out = Outcome(scene, self.loop.time())
        self.arrivals, self.clients = random.Random(seed), random.Random(seed + 1000)
        self.draw = drawer(scene.shape, scene.hold, self.arrivals)
        self.highest = max(load for _, load in scene.load)
        self.leaks: list[float] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Outcome:
        """Let it happen."""
        scene, loop, began = self.scene, self.loop, self.out.began
        for at, count in scene.bursts:
            loop.call_at(began + at, lambda count=count: [self.arrive() for _ in range(count)])
        for at, count, seconds in scene.leaks:
            loop.call_at(began + at, self.leaks.extend, [seconds] * count)
        self.database.expect(began)
        self.next_arrival()
        await asyncio.sleep(scene.seconds)
        tasks = list(self.tasks)
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(failed), failed
        self.out.connects = self.database.begun
        self.out.would_reject = getattr(getattr(self.pool, "_ledger", None), "would_reject", 0)
        return self.out

    def next_arrival(self) -> None:
        """Let the next client come when chance will have it."""
        rate = self.highest * self.scene.connections / self.scene.hold
        self.loop.call_at(self.loop.time() + self.arrivals.expovariate(rate), self.perhaps)

    def perhaps(self) -> None:
        """Let a client come, as often as the load of the moment is to the highest."""
        now = self.loop.time() - self.out.began
        load = [load for at, load in self.scene.load if at <= now][-1]
        if now < self.scene.seconds:
            if load == self.highest or self.arrivals.random() * self.highest < load:
                self.arrive()
            self.next_arrival()

    def arrive(self) -> None:
        """Let a client come."""
        level = self.arrivals.choices((0, 1, 2), self.scene.levels)[0] if self.scene.levels[1] < 1 else 1
        request = Request(self.loop.time(), self.draw(), level)
        self.out.requests.append(request)
        self.attempt(request, 0)

    def attempt(self, request: Request, number: int) -> None:
        """Try, and give up after a while."""
        attempt = Attempt(request, number, self.loop.time())
        self.out.attempts.append(attempt)
        attempt.timer = self.loop.call_at(attempt.at + self.scene.patience, self.give_up, attempt)
        task = self.loop.create_task(greenlet_spawn(self.serve, attempt))
        self.tasks.add(task)
        task.add_done_callback(self.done)

    def done(self, task: asyncio.Task[None]) -> None:
        """Forget a task, unless it failed."""
        if task.cancelled() or task.exception() is None:
            self.tasks.discard(task)

    def give_up(self, attempt: Attempt) -> None:
        """Leave; the server does not notice."""
        attempt.gone = True
        self.retry(attempt, None)

    def retry(self, attempt: Attempt, told: float | None) -> None:
        """Try again, if that was not the last time."""
        scene = self.scene
        if attempt.number >= scene.retries:
            return
        if scene.obey and told is not None:
            wait = max(1.0, math.ceil(told)) + self.clients.random()
        else:
            wait = self.clients.random() * min(2.0, scene.backoff * 2**attempt.number)
        self.loop.call_later(wait, self.attempt, attempt.request, attempt.number + 1)

    def serve(self, attempt: Attempt) -> None:
        """Be the server: get a connection, work, answer."""
        request = attempt.request
        try:
            with priority(LEVELS[request.level]):  # type: ignore[arg-type]
                connection = self.pool.connect()
        except NO_CONNECTION as error:
            attempt.refused = self.loop.time()
            self.fail(attempt, getattr(error, "retry_after", None))
            return
        attempt.granted = now = self.loop.time()
        leak = self.leaks.pop() if self.leaks else None
        seconds = leak if leak is not None else self.finish(now - self.out.began, request.work)
        try:
            if not self.database.work(connection.dbapi_connection, seconds):
                connection.invalidate()
        except Lost as error:
            self.pool._invalidate(connection, error)  # as an engine does: all that were opened before are taken for dead
            self.fail(attempt, None)
            return
        finally:
            connection.close()
        attempt.answered = self.loop.time()
        if not attempt.gone:
            attempt.timer.cancel()  # type: ignore[union-attr]
            if request.served is None:
                request.served = attempt.answered

    def fail(self, attempt: Attempt, told: float | None) -> None:
        """Tell a client that is still there."""
        if not attempt.gone:
            attempt.timer.cancel()  # type: ignore[union-attr]
            self.retry(attempt, told)

    def finish(self, now: float, work: float) -> float:
        """Tell how many seconds it takes the database to do some work."""
        start, end, factor = self.scene.slow
        before = max(min(work, start - now), 0.0)
        slowed = min((work - before) * factor, max(end - max(now, start), 0.0))
        return before + slowed + (work - before - slowed / factor)


def play(scene: Scene, *, seed: int = 1, pool: Any = TimedPool, timeout: float = 30.0, **options: Any) -> Outcome:
    """
    Play a scene in a loop of its own.

    Args:
        scene: what happens.
        seed: of everything that is drawn.
        pool: class of the pool.
        timeout: its `pool_timeout`.
        options: of the guard, where the pool has one; it turns away unless told otherwise.
    """

    async def run() -> Outcome:
        database = Database(scene.connect, scene.outage, random.Random(seed + 2000))
        more = {"guard": guard(**{**getattr(pool, "options", {}), **options})} if issubclass(pool, TimedPool) else {}
        one = pool(database.connect, pool_size=scene.connections, max_overflow=0, timeout=timeout, reset_on_return=None, **more)
        out = await World(scene, database, one, seed).run()
        if isinstance(one, TimedPool):
            one._ledger.check()
        return out

    dice = random.getstate()
    random.seed(seed)  # the pool's own
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(run())
    finally:
        random.setstate(dice)
