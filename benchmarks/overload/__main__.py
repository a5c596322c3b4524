"""The command: `python -m benchmarks.overload`. It plays the scenes of `tests/doubles/demands.py`, with us and with others."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from doubles.demands import DEMANDS
from doubles.pools import TimedPool

from benchmarks.overload.rivals import RIVALS, is_fair
from sqla_poolguard._ticker import ticker

if TYPE_CHECKING:
    from sqlalchemy.pool import Pool


def main() -> None:
    """Play what was asked for, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", help="play each scene with these; default: those of the tests"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="play only what has this in its name")
    parser.add_argument(
        "--rivals",
        nargs="*",
        choices=list(RIVALS),
        metavar="NAME",
        help=f"play it with them too, with all if none is named: {', '.join(RIVALS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    ticker.enabled = False  # it looks in real time
    rows = []
    rivals = () if arguments.rivals is None else arguments.rivals or RIVALS
    pools: dict[str, type[Pool]] = {"GuardedPool, fail_fast=True": TimedPool, **{name: RIVALS[name] for name in rivals}}
    print(f"| figure | demanded | {' | '.join(pools)} | seeds |\n|---|---|{'---|' * len(pools)}---|")
    began = time.perf_counter()
    for demand in DEMANDS:
        if arguments.only not in demand.name:
            continue
        demand = dataclasses.replace(demand, seeds=tuple(arguments.seeds or demand.seeds))  # noqa: PLW2901
        figures = [demand.measure(pool) if is_fair(pool, demand) else math.nan for pool in pools.values()]
        sign = ">=" if demand.at_least else "<="
        shown = " | ".join(
            "-" if math.isnan(figure) else "never" if math.isinf(figure) else f"{figure:.3g}" for figure in figures
        )
        missed = "" if demand.is_met(figures[0]) else " MISSED"
        seeds = " ".join(map(str, demand.seeds))
        print(f"| {demand.name} | {sign} {demand.bound:g} {demand.unit} | {shown}{missed} | {seeds} |", flush=True)
        rows.append(
            {"name": demand.name, "bound": demand.bound, "at_least": demand.at_least, "figures": figures, "seeds": demand.seeds}
        )
    print(f"\n{len(rows)} figures in {time.perf_counter() - began:.0f} s, in virtual time: the same again with the same seeds")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
