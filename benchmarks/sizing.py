"""How near formulas come to the line that is played through: `python -m benchmarks.sizing` prints it.

Nothing is timed: figures are the same on any machine.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

from sqla_poolguard._erlang import erlang_c, wait_above
from sqla_poolguard._hold_times import Exponential, Histogram, Lognormal
from sqla_poolguard._queueing import Day

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


def grid() -> None:
    """Compare Erlang's formula with exponential holds, where at least 1 % wait."""
    print("Exponential holds: P(wait > t) by Erlang's formula, and played through\n")
    worst = 0.0
    for servers, busy in product(SERVERS, BUSY):
        day = Day(servers * busy / HOLD, Exponential(HOLD), requests=REQUESTS, seed=7)
        cells = []
        for gaps in GAPS:
            seconds = gaps * HOLD / servers
            formula = wait_above(seconds, servers, servers * busy, HOLD)
            if formula >= 0.01:
                off = day.above(seconds, servers) / formula - 1
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
        played = Day(load / HOLD, shape, requests=REQUESTS, seed=7).above(HOLD, servers)
        erlang = wait_above(HOLD, servers, load, HOLD)
        allen = erlang_c(servers, load) * math.exp(-(servers - load) / spread)
        print(f"  {name:15s} {servers:3d} connections, {busy:.0%} busy: {played:7.4f}   {erlang:7.4f}   {allen:7.4f}")


if __name__ == "__main__":
    grid()
    other_shapes()
