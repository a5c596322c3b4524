"""How near formulas come to the line that is played through: `python -m benchmarks.sizing` prints it; `… large` plays large loads for minutes.

Nothing is timed: figures are the same on any machine.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import sys
from itertools import product
from typing import TYPE_CHECKING

from sqla_poolguard._demand import Demand
from sqla_poolguard._erlang import erlang_c, wait_above
from sqla_poolguard._hold_times import Exponential, Histogram, Lognormal
from sqla_poolguard._queueing import Line, Traffic

if TYPE_CHECKING:
    from sqla_poolguard._hold_times import HoldTimes

HOLD = 0.05
REQUESTS = 400_000
SERVERS, BUSY, GAPS = (1, 5, 10, 30), (0.6, 0.8, 0.9), (0, 0.5, 1, 2, 4)
SHAPES: dict[str, HoldTimes] = {
    "all alike": Histogram((HOLD * 0.99, HOLD * 1.01), (0, 1, 0), HOLD),
    "p99 = 10 x p50": Lognormal(HOLD, HOLD * 10),
    "p99 = 50 x p50": Lognormal(HOLD, HOLD * 50),
}


def played(traffic: Traffic, servers: int, erlangs: float, patience: float, days: int = 1) -> float:
    """Give the share that waits for longer; times in mean holds."""
    line = Line(traffic, erlangs, servers, patience, REQUESTS)
    line.play(days)
    return line.share().seen


def grid() -> None:
    """Compare Erlang's formula with exponential holds, where at least 1 % wait."""
    print("Exponential holds: P(wait > t) by Erlang's formula, and played through\n")
    worst = 0.0
    for servers, busy in product(SERVERS, BUSY):
        traffic = Traffic(Exponential(HOLD), seed=7)
        cells = []
        for gaps in GAPS:
            seconds = gaps * HOLD / servers
            formula = wait_above(seconds, servers, servers * busy, HOLD)
            if formula >= 0.01:
                off = played(traffic, servers, servers * busy, seconds / HOLD) / formula - 1
                worst = max(worst, abs(off))
                cells.append(f"{formula:7.4f} {100 * off:+5.1f} %")
        print(f"  {servers:3d} connections, {busy:.0%} busy: ", " | ".join(cells))
    print(f"\n  largest difference: {100 * worst:.1f} %\n")


def other_shapes() -> None:
    """Compare with what is often used for other holds: Allen's and Cunneen's mean wait, and an exponential tail of that mean."""
    print("Other holds, P(wait > 50 ms): played through, by Erlang's formula, and by that of Allen and Cunneen\n")
    for (name, holds), servers, busy in product(SHAPES.items(), (5, 10, 30), (0.6, 0.8)):
        shape = holds.scaled(HOLD / holds.mean)
        load, spread = servers * busy, (1 + shape.variation**2) / 2
        seen = played(Traffic(shape, seed=7), servers, load, 1.0, days=5)
        erlang = wait_above(HOLD, servers, load, HOLD)
        allen = erlang_c(servers, load) * math.exp(-(servers - load) / spread)
        print(f"  {name:15s} {servers:3d} connections, {busy:.0%} busy: {seen:7.4f}   {erlang:7.4f}   {allen:7.4f}")


def longer_runs() -> None:
    """Compare what is suggested with runs of other seeds, five times as long as the longest that `poolguard size` plays."""
    print(
        "\nSuggested sizes, 100 checkouts/s, at most 1 % wait longer than 50 ms; shares of 8,000,000 others with it, and with one less\n"
    )
    for holds, burst in (
        (Lognormal(0.02, 0.2), 1),
        (Lognormal(0.02, 0.4), 1),
        (Lognormal(0.005, 0.5), 1),
        (Lognormal(0.2, 1.5), 1),
        (Exponential(0.03), 5),
    ):
        demand = Demand(100.0, holds, burst=burst)
        size = demand.least()
        shares = []
        for servers in (size, size - 1):
            line = Line(Traffic(holds, burst=burst, seed=99), demand.erlangs, servers, 0.05 / holds.mean, REQUESTS)
            line.play(20)
            shares.append(line.share().seen)
        sure = "certain" if demand.is_certain(size) else "the safe side"
        print(f"  {holds}, bursts of {burst}: {size} ({sure}); {shares[0]:.4f}, {shares[1]:.4f}")


def large_loads() -> None:
    """Play large loads for long, drawn with the standard library and served by its heap, with nothing of the package."""
    print(
        "\nP(wait > 50 ms), holds with a median of 20 ms and a 99th percentile of 200 ms, bursts of one, 20,000,000 checkouts\n"
    )
    sigma = math.log(10) / statistics.NormalDist().inv_cdf(0.99)
    for rate, sizes in ((3000.0, (101, 102)), (6000.0, (198, 199, 200, 201))):
        for servers in sizes:
            dice, now, late, number = random.Random(2718), 0.0, 0, 20_000_000
            free = [0.0] * servers
            for _ in range(number):
                now += dice.expovariate(rate)
                begins = max(free[0], now)
                late += begins - now > 0.05
                heapq.heapreplace(free, begins + dice.lognormvariate(math.log(0.02), sigma))
            print(f"  {rate:g} a second, {servers} connections: {late / number:.4f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["large"]:
        large_loads()
        raise SystemExit
    grid()
    other_shapes()
    longer_runs()
