"""The command: `python -m benchmarks.overload.on_the_wall`: the experiments against a real service with a real PostgreSQL."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from typing import TYPE_CHECKING

from benchmarks.overload.experiments import EXPERIMENTS, shown
from benchmarks.overload.stalls import WORTH_TELLING
from benchmarks.overload.wall import CONNECTIONS, HOLD, bench
from sqla_poolguard._cli.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from benchmarks.overload.experiments import Figure
    from benchmarks.overload.wall import Pool

FAILS = {"outages", "recovery"}
"""Experiments in which the database fails."""


async def measure(pool: Pool, name: str, seed: int) -> tuple[list[Figure], tuple[float, float]]:
    """Do one experiment with one pool; give for how long the clients' and the service's loop stood still at most, too, in seconds."""
    with EmbeddedPostgres() as postgres:
        async with bench(pool, postgres, fails=name in FAILS) as running:
            figures = [figure async for figure in EXPERIMENTS[name](running, seed)]
            clients, service = zip(*running.stood_still, strict=True)
            return figures, (max(clients), max(service))


def main() -> None:
    """Do what was asked for, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload.on_the_wall", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-stock", action="store_true", help="play it with our pool only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    logging.disable()
    pools: tuple[Pool, ...] = ("guarded",) if arguments.no_stock else ("guarded", "stock")
    print(f"{CONNECTIONS} connections, hold {HOLD} s (exponential), seed {arguments.seed}; a service with each pool in turn\n")
    print("| figure | demanded | GuardedPool, fail_fast=True |" + ("" if arguments.no_stock else " stock |"))
    print("|---|---|---|" + ("" if arguments.no_stock else "---|"))
    began, rows, stalls = time.perf_counter(), [], []
    for name in arguments.only:
        measured = [asyncio.run(measure(pool, name, arguments.seed)) for pool in pools]
        for pool, (_, (clients, service)) in zip(pools, measured, strict=True):
            if max(clients, service) > WORTH_TELLING:
                stalls.append(f"{name}, {pool}: the clients stood still for {clients:.2f} s, the service for {service:.2f} s")
        for ours, *others in zip(*(figures for figures, _ in measured), strict=True):
            cells = [shown(ours.measured) + ("" if ours.is_met else " MISSED"), *(shown(other.measured) for other in others)]
            print(f"| {ours.name} | {ours.demanded} | {' | '.join(cells)} |", flush=True)
            rows.append({"name": ours.name, "demanded": ours.demanded, "figures": [ours.measured, *(o.measured for o in others)]})
    print("\n" + "".join(f"{stall}\n" for stall in stalls) + f"{len(rows)} figures in {time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
