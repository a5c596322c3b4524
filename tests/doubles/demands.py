"""What is demanded of a pool under overload: scenes, the figure that counts in each, and what it has to be."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from doubles.database import Kind, Outage
from doubles.outcome import Ordeal, Outcome
from doubles.pools import TimedPool
from doubles.world import STOCK, Scene, play

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = ("exponential", "lognormal", "bimodal")
MAX_WAIT = 1.0
SPAN = 20.0
OUTAGE = 30.0
PHASES = tuple(range(10))
"""Seeds of which each has the outage end a little later: the probe is at another point of its pause."""


@dataclass(frozen=True)
class Demand:
    """One line of the table."""

    name: str
    scene: Scene | Callable[[int], Scene]
    """What happens, or gives that for a seed."""
    figure: Callable[[Any], float]
    """Gives the figure of what `watch` gave."""
    bound: float
    at_least: bool = True
    """Whether the bound is the least that is demanded, or the most."""
    unit: str = ""
    seeds: tuple[int, ...] = (1,)
    """Seeds over which the figure is averaged; more where chance weighs more."""
    watch: Callable[..., Any] = play
    """Plays the scene."""
    worst: bool = False
    """Whether the worst of the figures counts, and not the mean."""
    beside: Callable[[int], float] | None = None
    """Gives, for a seed, what is to be subtracted from the figure."""
    relative: bool = False
    """Whether to divide by that instead."""

    def measure(self, pool: Any = TimedPool) -> float:
        """Play the scene with every seed; give the mean of the figure, or the worst."""
        figures = []
        for seed in self.seeds:
            scene = self.scene if isinstance(self.scene, Scene) else self.scene(seed)
            figure = self.figure(self.watch(scene, seed=seed, pool=pool))
            if self.beside is not None:
                other = self.beside(seed)
                figure = figure / other if self.relative else figure - other
            figures.append(figure)
        if self.worst:
            return min(figures) if self.at_least else max(figures)
        return sum(figures) / len(figures)

    def is_met(self, figure: float) -> bool:
        """Compare a figure with the bound."""
        return figure >= self.bound if self.at_least else figure <= self.bound


def steady(load: float, **options: Any) -> Scene:
    """Give a scene of one load."""
    return Scene(load=((0.0, load),), **{"seconds": SPAN, "warmup": 6.0, **options})


def pulses(load: float, seconds: float, base: float) -> Scene:
    """Give a scene with a pulse of load every six seconds, and clients that do not retry."""
    steps = [step for at in range(5, 41, 6) for step in ((float(at), load), (at + seconds, base))]
    return Scene(load=((0.0, base), *steps), seconds=45.0, warmup=5.0, retries=0)


def failed(outcome: Outcome) -> float:
    """Give the share of requests that were not served, but for the last seconds, in points."""
    return 100 * (1 - outcome.served((outcome.scene.warmup, outcome.scene.seconds - 2)))


def within(start: float, end: float, share: float) -> Callable[[Outcome], float]:
    """Give a figure: the goodput of an event, of the share that the connections can still do."""
    return lambda outcome: outcome.goodput((start, end)) / share


def recovered(end: float, load: float) -> Callable[[Outcome], float]:
    """Give a figure: how long it took after an event."""
    return lambda outcome: outcome.recovery(end, load)


def refused_after(outcome: Outcome) -> float:
    """Give the 99th percentile of the time to a refusal, in shares of `max_wait`."""
    return outcome.time_to_refusal(0.99) / MAX_WAIT


CONNECT = (0.02, 0.1)
FULL = steady(0.6, connect=CONNECT, outage=Outage(Kind.FULL, 5.0, 5.0 + OUTAGE, lost=3), seconds=40.0)
UNLOADED = steady(0.1, seconds=120.0)
BELOW = {shape: steady(0.8, shape=shape, seconds=120.0, retries=0) for shape in SHAPES}
SLOW = steady(0.8, slow=(20.0, 40.0, 10.0), seconds=50.0)
SLOW_HALF = steady(0.5, slow=(20.0, 40.0, 10.0), seconds=50.0)
LEAK = steady(0.8, leaks=((15.0, 5, 20.0),), seconds=42.0)
BURSTS = Scene(load=((0.0, 0.5),), bursts=tuple((float(at), 100) for at in range(5, 41, 6)), seconds=45.0, warmup=5.0, retries=0)
SPIKE = Scene(load=((0.0, 0.6), (10.0, 3.0), (20.0, 0.6)), seconds=90.0, warmup=5.0, obey=True)
URGENT = {shape: steady(5.0, levels=(0.1, 0.7, 0.2), shape=shape, seconds=16.0) for shape in ("exponential", "bimodal")}


def outage(kind: Kind) -> Callable[[int], Scene]:
    """Give the scenes of an outage, by seed."""

    def scene(seed: int) -> Scene:
        start = 5.0
        end = start + OUTAGE + 0.4 * (seed % len(PHASES))
        return steady(0.7, connect=CONNECT, outage=Outage(kind, start, end), seconds=end + 8.0)

    return scene


@functools.cache
def go_through(scene: Scene, seed: int, pool: Any) -> Ordeal:
    """Play an outage, once for all of its figures."""
    return Ordeal.of(play(scene, seed=seed, pool=pool), OUTAGE)


def unloaded(seed: int) -> float:
    """Give the 99th percentile of latency where nobody waits."""
    return play(UNLOADED, seed=seed).latency(0.99)


def stock_failed(shape: str) -> Callable[[int], float]:
    """Give what the stock pool fails to serve."""
    return lambda seed: failed(play(BELOW[shape], seed=seed, pool=STOCK))


def goodput(outcome: Outcome) -> float:
    """Give the goodput after the warm-up."""
    return outcome.goodput()


DEMANDS = (
    *(
        Demand(
            f"goodput at {load:g}x, {shape}",
            steady(load, shape=shape, seconds=seconds, warmup=4.0),
            goodput,
            0.97 if shape == "exponential" else 0.92,
        )
        for shape in SHAPES
        for load, seconds in ((1.2, 20.0), (3.0, 14.0), (5.0, 11.0))
    ),
    *(
        Demand(f"goodput at 3x, patience {patience:g} s", steady(3.0, patience=patience, seconds=12.0, warmup=4.0), goodput, 0.95)
        for patience in (0.25, 0.5, 2.0, 5.0)
    ),
    *(
        Demand(
            f"goodput at 2.5x, hold {hold:g} s, {connections} connections",
            steady(2.5, hold=hold, connections=connections, patience=max(1.0, 6 * hold), seconds=seconds, warmup=warmup),
            goodput,
            0.95,
        )
        for hold, connections, seconds, warmup in (
            (0.002, 10, 3.0, 2.5),
            (0.05, 1, 60.0, 6.0),
            (0.05, 3, 40.0, 6.0),
            (0.05, 50, 6.0, 3.5),
            (0.5, 10, 80.0, 10.0),
            (2.0, 10, 250.0, 30.0),
        )
    ),
    Demand(
        "p99 of successes at 3x : unloaded",
        steady(3.0, seconds=14.0, warmup=4.0),
        lambda outcome: outcome.latency(0.99),
        1.15,
        at_least=False,
        beside=unloaded,
        relative=True,
    ),
    Demand("p99 time to a refusal at 3x : max_wait", steady(3.0, seconds=12.0, warmup=4.0), refused_after, 0.05, at_least=False),
    Demand("p99 time to a refusal at 1.2x : max_wait", steady(1.2), refused_after, 0.15, at_least=False),
    *(
        Demand(f"longest wait, {name}", scene, Outcome.longest_wait, MAX_WAIT + 0.05, at_least=False, unit="s")
        for name, scene in (
            ("3x from the first moment", steady(3.0, seconds=8.0, warmup=0.0)),
            ("database ten times slower", SLOW),
            ("half of the connections leaked", LEAK),
            ("hold 2 s", steady(2.5, hold=2.0, patience=12.0, seconds=60.0)),
        )
    ),
    *(
        Demand(f"refused, {name}", scene, lambda outcome: 100 * outcome.refused(), 0.5, at_least=False, unit="%")
        for name, scene in (("100 at once on 0.5x", BURSTS), ("3x for 0.3 s on 0.5x", pulses(3.0, 0.3, 0.5)))
    ),
    *(
        Demand(
            f"failed at 0.8x beyond stock, {shape}",
            BELOW[shape],
            failed,
            0.5,
            at_least=False,
            unit="points",
            seeds=(1, 2, 3),
            beside=stock_failed(shape),
        )
        for shape in SHAPES
    ),
    *(
        Demand(f"database 10x slower, {name}: goodput of what is left", scene, within(20.0, 40.0, 0.1), 0.75, seeds=(1, 2, 3))
        for name, scene in (("0.5x", SLOW_HALF), ("0.8x", SLOW))
    ),
    Demand("database 10x slower: recovery", SLOW, recovered(40.0, 0.8), 1.0, at_least=False, unit="s"),
    Demand("half of the connections leaked: goodput of what is left", LEAK, within(15.0, 35.0, 0.5), 0.97),
    *(
        Demand(
            f"critical 10 % at 5x, {shape}: served", scene, lambda outcome: 100 * outcome.served((6.0, 13.0), 0), 99.5, unit="%"
        )
        for shape, scene in URGENT.items()
    ),
    Demand(
        "3x for 10 s, clients obey Retry-After: served", SPIKE, lambda outcome: 100 * outcome.served((10.0, 20.0)), 97.0, unit="%"
    ),
    Demand("the same: retries that succeed", SPIKE, lambda outcome: 100 * outcome.honest(), 65.0, unit="%"),
    *(
        Demand(
            f"outage 30 s, {kind}: {name}",
            outage(kind),
            figure,
            bound,
            at_least=False,
            unit=unit,
            seeds=seeds,
            watch=go_through,
            worst=worst,
        )
        for kind, told_after, seeds in (
            (Kind.REFUSED, 0.01, PHASES),
            (Kind.BLACK_HOLE, 0.01, PHASES),
            # while connections live the queue turns away, not the breaker; the bound is what the simulation found (E6: 0.19)
            (Kind.HUNG, 0.15, (1, 2, 3)),
        )
        for name, figure, bound, unit, worst in (
            ("p99 time to an error", lambda ordeal: ordeal.told_after, told_after, "s", True),
            ("longest wait", lambda ordeal: ordeal.longest_wait, MAX_WAIT + 0.05, "s", True),
            ("recovery, mean", lambda ordeal: ordeal.back_after, 1.5, "s", False),
            ("recovery, worst", lambda ordeal: ordeal.back_after, 3.0, "s", True),
            *((("connects begun", lambda ordeal: ordeal.connects, 60, "", True),) if kind is Kind.REFUSED else ()),
        )
    ),
    Demand(
        "outage 30 s, full, 3 of 10 connections gone, 0.6x: served",
        FULL,
        lambda outcome: 100 * outcome.served((5.0, 5.0 + OUTAGE)),
        99.5,
        unit="%",
        seeds=(1, 2, 3),
    ),
)
