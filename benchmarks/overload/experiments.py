"""What is measured on the wall clock: the table of the overload issue, line by line."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from doubles.database import Kind, Outage
from doubles.outcome import Ordeal
from doubles.world import Scene

from benchmarks.overload.wall import CONNECTIONS, HOLD, refused_share, worked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from doubles.outcome import Outcome

    from benchmarks.overload.wall import Bench

__all__ = ["EXPERIMENTS", "Figure"]

WARMUP, SPAN = 4.0, 12.0
"""Seconds that are not looked at, and that are."""
QUIET = 0.3
"""A load under which nobody waits."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure that was measured."""

    name: str
    measured: float
    """Not a number where nothing was seen of which it could be made: nobody was told, say."""
    bound: float
    at_least: bool = False
    """Whether the bound is the least that is demanded, or the most."""

    @property
    def demanded(self) -> str:
        """What is demanded, in words."""
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"

    @property
    def is_met(self) -> bool:
        """Whether it is as demanded."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


EXPERIMENTS: dict[str, Callable[[Bench, int], AsyncIterator[Figure]]] = {}


def experiment(function: Callable[[Bench, int], AsyncIterator[Figure]]) -> Callable[[Bench, int], AsyncIterator[Figure]]:
    """Enter an experiment into the list."""
    EXPERIMENTS[function.__name__] = function
    return function


def steady(load: float, **options: object) -> Scene:
    """Give a scene of one load."""
    return changing((0.0, load), **options)


def changing(*load: tuple[float, float], **options: object) -> Scene:
    """Give a scene whose load changes: (second, load from then on)."""
    scene = Scene(load=load, connections=CONNECTIONS, hold=HOLD, warmup=WARMUP, seconds=WARMUP + SPAN)
    return dataclasses.replace(scene, **options)  # type: ignore[arg-type]


@experiment
async def overload(bench: Bench, seed: int) -> AsyncIterator[Figure]:
    """Measure goodput against what ten clients in a closed loop got, latency against that of a quiet time, and the time to a refusal."""
    capacity = await bench.capacity(6.0, seed)
    quiet = await bench.play(steady(QUIET), seed)
    for load in (1.2, 3.0, 5.0):
        outcome = await bench.play(steady(load), seed)
        yield Figure(f"goodput at {load:g}x", worked(outcome, WARMUP, WARMUP + SPAN) / capacity, 0.95, at_least=True)
        if load == 3.0:
            yield Figure("p99 latency at 3x : unloaded", outcome.latency(0.99) / quiet.latency(0.99), 1.3)
            yield Figure("p99 time to a refusal at 3x, s", outcome.time_to_refusal(0.99), 0.1)


@experiment
async def below_capacity(bench: Bench, seed: int) -> AsyncIterator[Figure]:
    """Count who is refused where nobody need be."""
    outcome = await bench.play(steady(0.85, seconds=WARMUP + 2 * SPAN), seed)
    yield Figure("refused at 0.85x, %", 100 * refused_share(outcome), 0.5)


@experiment
async def bursts(bench: Bench, seed: int) -> AsyncIterator[Figure]:
    """Count who is refused in bursts that can be worked off in time; clients wait for longer than that takes."""
    patient = {"patience": 5.0, "retries": 0}
    # as much work as a hundred of the simulation's holds, and a half more
    outcome = await bench.play(steady(QUIET, bursts=((6.0, 60), (10.0, 60), (14.0, 60)), **patient), seed)
    yield Figure("refused of 60 at once, on 0.3x, %", 100 * refused_share(outcome), 0.5)
    pulses = (step for at in (6.0, 10.0, 14.0) for step in ((at, 3.0), (at + 0.3, QUIET)))
    outcome = await bench.play(changing((0.0, QUIET), *pulses, **patient), seed)
    yield Figure("refused in 3x for 0.3 s, on 0.3x, %", 100 * refused_share(outcome), 0.5)


@experiment
async def outages(bench: Bench, seed: int) -> AsyncIterator[Figure]:
    """Measure what requests learn in 30 s of an outage, and when they are served again."""
    for kind in (Kind.REFUSED, Kind.BLACK_HOLE, Kind.HUNG):
        ordeal = Ordeal.of(await fall(bench, seed, Outage(kind, WARMUP, WARMUP + 30.0), after=12.0), 30.0)
        yield Figure(f"{kind}: p99 time to an error, s", ordeal.told_after, 0.25)
        yield Figure(f"{kind}: longest time to an error, s", ordeal.longest_wait, 1.1)
        yield Figure(f"{kind}: back after, s", ordeal.back_after, 3.0)
        if kind is Kind.REFUSED:
            yield Figure(f"{kind}: connects begun in 30 s", ordeal.connects, 60)


@experiment
async def recovery(bench: Bench, seed: int) -> AsyncIterator[Figure]:
    """Measure when requests are served again after ten outages of about six seconds, five of either kind."""
    times = []
    for number in range(10):
        kind = (Kind.REFUSED, Kind.BLACK_HOLE)[number % 2]
        outcome = await fall(bench, seed + number, Outage(kind, 2.0, 8.0 + number / 5), after=7.0)
        times.append(Ordeal.of(outcome, 6.0).back_after)
    yield Figure("back after, mean of 10 outages, s", sum(times) / len(times), 1.5)
    yield Figure("back after, worst of 10 outages, s", max(times), 3.0)


@experiment
async def priorities(bench: Bench, seed: int) -> AsyncIterator[Figure]:
    """Count who of the tenth that is critical is served at 5x."""
    outcome = await bench.play(steady(5.0, levels=(0.1, 0.7, 0.2)), seed)
    early = (WARMUP, WARMUP + SPAN - 3)  # those who came later may not have been told yet
    yield Figure("critical requests served at 5x, %", 100 * outcome.served(early, 0), 99.5, at_least=True)


@experiment
async def retry_after(bench: Bench, seed: int) -> AsyncIterator[Figure]:
    """Count who is served in the end of those that came in a spike, and did as they were told."""
    outcome = await bench.play(changing((0.0, QUIET), (5.0, 3.0), (15.0, QUIET), seconds=80.0, obey=True), seed)
    yield Figure("served in the end, of a spike of 10 s at 3x, %", 100 * outcome.served((5.0, 15.0)), 95, at_least=True)


async def fall(bench: Bench, seed: int, outage: Outage, after: float) -> Outcome:
    """Let the database fail for a while, at 0.7x, and watch for so many seconds after it."""
    hung = outage.kind is Kind.HUNG

    async def begin() -> None:
        await (bench.freeze() if hung else bench.proxy.fail(outage.kind))

    async def heal() -> None:
        await (bench.thaw() if hung else bench.proxy.heal())

    scene = steady(0.7, seconds=outage.end + after, warmup=0.0, outage=outage)
    return await bench.play(scene, seed, (outage.start, begin), (outage.end, heal))


def shown(measured: float) -> str:
    """Show a figure."""
    return "none" if math.isnan(measured) else "never" if math.isinf(measured) else f"{measured:.3g}"
