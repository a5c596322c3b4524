"""Act 1, the burst: the same load on the stock pool and on GuardedPool, in turns."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqla_poolguard._cli.demo.load import Crowd
from sqla_poolguard._cli.demo.scene import Check
from sqla_poolguard._cli.demo.settings import LIMIT, MAX_OVERFLOW, POOL_SIZE

if TYPE_CHECKING:
    from sqla_poolguard._cli.demo.load import Answer
    from sqla_poolguard._cli.demo.scene import Scene

__all__ = ["Burst", "Round", "play"]

_PEOPLE: Final = 250
_ROUNDS, _ROUNDS_QUICK = 3, 1
_LOGIN_SECONDS: Final = 0.25
_FASTER: Final = 1.15
_SHORTER: Final = 0.9
"""How much better GuardedPool must be. It is far better on a quiet machine; this is what must hold on any."""

POOLS: Final = ("stock", "guarded")


@dataclass(frozen=True, slots=True)
class Round:
    """One burst on one pool."""

    pool: str
    requests: int
    answered: int
    """Requests that got status 200."""
    seconds: float
    """Until the last answer."""
    p50: float
    p99: float
    """Seconds within which half, and 99 of 100, were answered."""
    opened: int
    """Physical connections opened; the pool began empty."""
    peak: int
    """The most connections in use."""
    typical: float
    """Median of the connections in use, from the first checkout to the last."""
    in_use: tuple[tuple[float, int], ...]
    """Samples of (seconds, connections in use)."""

    @property
    def throughput(self) -> float:
        """Requests answered a second."""
        return self.answered / self.seconds


@dataclass(frozen=True, slots=True)
class Burst:
    """What the rounds showed."""

    name: ClassVar[str] = "burst"

    rounds: tuple[Round, ...]

    def of(self, pool: str) -> list[Round]:
        """Give the rounds of a pool."""
        return [each for each in self.rounds if each.pool == pool]

    def median(self, pool: str, figure: str) -> float:
        """Give the median of a figure over the rounds of a pool."""
        return float(statistics.median(getattr(each, figure) for each in self.of(pool)))

    def median_round(self, pool: str) -> Round:
        """Give the round with the median duration."""
        rounds = sorted(self.of(pool), key=lambda each: each.seconds)
        return rounds[(len(rounds) - 1) // 2]

    def ratio(self, figure: str) -> float:
        """Compare GuardedPool with the stock pool."""
        stock = self.median("stock", figure)
        return self.median("guarded", figure) / stock if stock else float("inf")

    @property
    def checks(self) -> tuple[Check, ...]:
        """Everybody was served, and sooner."""
        return (
            Check("every request of both pools was answered with 200", all(r.answered == r.requests for r in self.rounds)),
            Check(f"GuardedPool answers at least {_FASTER} times as many a second", self.ratio("throughput") >= _FASTER),
            Check(f"its p99 is at most {_SHORTER} of the stock pool's", self.ratio("p99") <= _SHORTER),
            Check("GuardedPool used all it may, and no more", all(r.peak == LIMIT for r in self.of("guarded"))),
        )

    def figures(self) -> dict[str, Any]:
        """Give the medians and every round, without its samples."""
        names = ("throughput", "p50", "p99", "opened", "peak", "typical")
        rounds = [{k: v for k, v in asdict(r).items() if k != "in_use"} | {"throughput": r.throughput} for r in self.rounds]
        return {
            "pool_size": POOL_SIZE,
            "max_overflow": MAX_OVERFLOW,
            "requests": self.rounds[0].requests,
            **{pool: {name: self.median(pool, name) for name in names} for pool in POOLS},
            "throughput_ratio": self.ratio("throughput"),
            "p99_ratio": self.ratio("p99"),
            "rounds": rounds,
        }


async def play(scene: Scene) -> Burst:
    """Let everybody ask at once: stock, guarded, guarded, stock, and so on, each time with an empty pool."""
    turns = [POOLS[(number + half) % 2] for number in range(_ROUNDS_QUICK if scene.quick else _ROUNDS) for half in (0, 1)]
    async with Crowd(scene.server.url, LIMIT) as few:
        scene.tell("warming up", 0.0)
        for pool in POOLS:
            await few.ask("GET", f"/burst/{pool}/orders")
            await scene.report(f"burst/{pool}")
    rounds = []
    async with Crowd(scene.server.url, _PEOPLE) as crowd:
        for number, pool in enumerate(turns):
            rounds.append(await _round(scene, crowd, pool, number, len(turns)))
    return Burst(tuple(rounds))


async def _round(scene: Scene, crowd: Crowd, pool: str, number: int, rounds: int) -> Round:
    answered = 0
    title = f"round {number + 1} of {rounds}: {'GuardedPool' if pool == 'guarded' else 'stock pool'}"

    def count() -> None:
        nonlocal answered
        answered += 1
        scene.tell(f"{title}, {answered} of {crowd.people} answered", (number + answered / crowd.people) / rounds)

    scene.tell(title, number / rounds)
    await scene.watch(f"burst/{pool}")
    async with asyncio.TaskGroup() as group:
        over = asyncio.Event()
        group.create_task(_log_in(scene, pool, over))
        start = time.perf_counter()
        answers = await crowd.ask("GET", f"/burst/{pool}/orders", count)
        seconds = time.perf_counter() - start
        over.set()
    return _measure(pool, answers, seconds, await scene.report(f"burst/{pool}"))


async def _log_in(scene: Scene, pool: str, over: asyncio.Event) -> None:
    """Log in at a steady pace until the burst is over."""
    async with Crowd(scene.server.url, 1) as one:
        while not over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOGIN_SECONDS):
                    await over.wait()
            await one.ask("POST", f"/burst/{pool}/login")


def _measure(pool: str, answers: list[Answer], seconds: float, seen: dict[str, Any]) -> Round:
    latencies = sorted(answer.seconds for answer in answers)
    samples = [(at, used) for at, used in seen["samples"]]
    busy = [index for index, (_, used) in enumerate(samples) if used]
    samples = samples[busy[0] : busy[-1] + 1] if busy else []
    counts = [used for _, used in samples]
    return Round(
        pool=pool,
        requests=len(answers),
        answered=sum(answer.status == 200 for answer in answers),  # noqa: PLR2004
        seconds=seconds,
        p50=latencies[len(latencies) // 2],
        p99=latencies[min(int(len(latencies) * 0.99), len(latencies) - 1)],
        opened=seen["opened"],
        peak=max(counts, default=0),
        typical=float(statistics.median(counts)) if counts else 0.0,
        in_use=tuple(samples),
    )
