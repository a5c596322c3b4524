"""The same clients on the wall clock: a real service on uvicorn in a second process, a real PostgreSQL, and what may happen to it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from doubles.outcome import Attempt
from doubles.world import LEVELS, World

from benchmarks.overload.asking import Answer, Asking
from benchmarks.overload.fault import Proxy
from benchmarks.overload.stalls import Stalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from doubles.outcome import Outcome, Request
    from doubles.world import Scene

    from sqla_poolguard._cli.embedded import EmbeddedPostgres

Pool = Literal["stock", "guarded"]
HOLD = 0.125
"""
Mean, in seconds: 2.5 times that of the simulation, since service, database and clients share two cores.

At 5x ten connections make 400 clients a second, and three times as many attempts.
"""
CONNECTIONS = 10


class Elsewhere:
    """A database in the sense of the world of clients: what happens to the real one, somebody else sees to."""

    begun: tuple[float, ...] = ()

    def expect(self, began: float) -> None:
        """Do nothing."""


class WallWorld(World):
    """Clients that ask a service."""

    def __init__(self, scene: Scene, asking: Asking, seed: int) -> None:
        """Begin, in the running loop."""
        super().__init__(scene, Elsewhere(), None, seed)  # type: ignore[arg-type] # it is told nothing
        self.asking = asking
        self.ids: dict[str, Attempt] = {}
        """Attempts, as the service knows them; it may still be busy with those of an earlier scene."""

    def attempt(self, request: Request, number: int) -> None:
        """Try, and give up after a while."""
        attempt = Attempt(request, number, self.loop.time())
        self.out.attempts.append(attempt)
        name = f"{self.out.began:.0f}-{len(self.ids)}"
        self.ids[name] = attempt
        task = self.loop.create_task(self.ask(attempt, name))
        attempt.timer = self.loop.call_at(attempt.at + self.scene.patience, self.leave, attempt, task)
        self.tasks.add(task)
        task.add_done_callback(self.done)

    def leave(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """Give up, and hang up; the service works on."""
        task.cancel()
        self.give_up(attempt)

    async def ask(self, attempt: Attempt, name: str) -> None:
        """Ask, and note what was said."""
        path, header = f"/work?seconds={attempt.request.work:.4f}&id={name}", f"x-priority: {LEVELS[attempt.request.level]}\r\n"
        try:
            answer = await self.asking.get(path, header)
        except OSError:
            answer = Answer(599, None, b"")
        now = self.loop.time()
        if answer.status == 200:
            attempt.answered = now
            attempt.timer.cancel()  # type: ignore[union-attr]
            attempt.request.served = attempt.request.served or now
        else:
            attempt.refused = now  # where that was not for a broken connection, the service knows it better
            self.fail(attempt, answer.retry_after)


@dataclasses.dataclass
class Bench:
    """A service with one kind of pool, on a database that may fail."""

    postgres: EmbeddedPostgres
    proxy: Proxy
    asking: Asking
    stalls: Stalls
    stood_still: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """Of each scene, the longest time in which the clients' loop did not run, and the service's, in seconds."""

    async def play(self, scene: Scene, seed: int, *happens: tuple[float, Callable[[], Awaitable[None]]]) -> Outcome:
        """Play a scene; at each of those seconds, something happens."""
        await self._rest()

        async def happen(at: float, happening: Callable[[], Awaitable[None]]) -> None:
            await asyncio.sleep(at)
            await happening()

        events = [asyncio.create_task(happen(*event)) for event in happens]
        self.stalls.forget()
        world = WallWorld(scene, self.asking, seed)
        outcome = await world.run()
        await asyncio.gather(*events)
        seen = await self._seen()
        self.stood_still.append((self.stalls.longest, seen["stalled"]))
        outcome.connects = seen["connects"]
        for fact in ("granted", "refused"):
            for name, at in seen[fact].items():
                if name in world.ids:
                    setattr(world.ids[name], fact, at)
        return outcome

    async def capacity(self, seconds: float, seed: int) -> float:
        """Measure how much work a second ten clients get done that always ask again, in seconds of holding a connection."""
        rnd, loop, done = random.Random(seed), asyncio.get_running_loop(), 0.0
        await self._rest()
        end = loop.time() + seconds

        async def client() -> None:
            nonlocal done
            while loop.time() < end:
                work = rnd.expovariate(1 / HOLD)
                answer = await self.asking.get(f"/work?seconds={work:.4f}&id=0")
                assert answer.status == 200, answer
                done += work

        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
        return done / seconds

    async def _rest(self) -> None:
        """Wait until what was asked before is worked off, and all connections are open."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(120):
            while True:
                begun = loop.time()
                with contextlib.suppress(OSError):
                    answers = await asyncio.gather(*(self.asking.get("/work?seconds=0.2&id=0") for _ in range(CONNECTIONS)))
                    if loop.time() - begun < 0.35 and all(answer.status == 200 for answer in answers):
                        break
                await asyncio.sleep(0.2)
        await self._seen()

    async def _seen(self) -> dict[str, Any]:
        answer = await self.asking.get("/seen")
        return json.loads(answer.body)  # type: ignore[no-any-return]

    async def freeze(self) -> None:
        """Let the database stand still."""
        for pid in self.postgres.pids():
            os.kill(pid, signal.SIGSTOP)

    async def thaw(self) -> None:
        """Let it go on."""
        for pid in self.postgres.pids():
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def bench(pool: Pool, postgres: EmbeddedPostgres, *, fails: bool) -> AsyncIterator[Bench]:
    """Run a service with a pool; if its database is to fail, there is a proxy between them, in this process, which costs the service time."""
    proxy = Proxy(postgres.host, postgres.port)
    await proxy.start()
    dsn = postgres.url().replace(f":{postgres.port}/", f":{proxy.port}/") if fails else postgres.url()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ("-m", "benchmarks.overload.service", pool, dsn, "--port", str(port), "--connections", str(CONNECTIONS))
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=Path(__file__).parents[2])
    asking, stalls = Asking(port), Stalls()
    try:
        yield Bench(postgres, proxy, asking, stalls)
    finally:
        stalls.stop()
        asking.close()
        process.kill()
        await process.wait()
        await proxy.stop()


def worked(outcome: Outcome, start: float, end: float) -> float:
    """Give the work a second that was answered in time, in seconds of holding a connection."""
    done = [one.work for one in outcome.requests if one.served is not None and start <= one.served - outcome.began < end]
    return sum(done) / (end - start)


def refused_share(outcome: Outcome) -> float:
    """Give the share of requests that were refused at least once."""
    refused = {id(one.request) for one in outcome.attempts if one.refused is not None}
    return len(refused) / max(len(outcome.requests), 1)
