"""The command: `python -m benchmarks`. It chooses what is run, and where the results go."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy

from benchmarks import interleave, memory, plots
from benchmarks.plan import WORKLOADS
from benchmarks.rivals import RIVALS
from benchmarks.tables import Screen
from benchmarks.targets import TARGETS
from benchmarks.workload import Setting
from sqla_poolguard._cli.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from benchmarks.figures import Series

_MEMORY = "memory"
_QUICK = 3
_FEW = 15


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*WORKLOADS, _MEMORY], help="run these workloads only")
    parser.add_argument("--rounds", type=int, metavar="N", help="run so many rounds of each, instead of its own number")
    parser.add_argument("--quick", action="store_true", help="run a few rounds only: rough figures, soon")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw plots there (needs matplotlib)")
    parser.add_argument("--list", action="store_true", help="tell what there is to run, and against whom")
    return parser.parse_args()


def _rounds(own: int, arguments: argparse.Namespace) -> int:
    if arguments.rounds:
        return int(arguments.rounds)
    return (_QUICK if own < 50 else _FEW) if arguments.quick else own


async def _run(names: list[str], setting: Setting, arguments: argparse.Namespace, screen: Screen) -> dict[str, dict[str, Series]]:
    results = {}
    for name in names:
        workload = WORKLOADS[name]
        results[name] = await interleave.run(workload, setting, _rounds(workload.rounds, arguments))
        screen.workload(workload, results[name])
    return results


async def _memory() -> dict[str, dict[str, float]]:
    return {name: await memory.measure(RIVALS[name]) for name in memory.RIVALS}


def _report(results: dict[str, dict[str, Series]], bytes_used: dict[str, dict[str, float]], postgres: str) -> dict[str, Any]:
    return {
        "sqlalchemy": sqlalchemy.__version__,
        "python": platform.python_version(),
        "postgresql": postgres,
        "workloads": {
            name: {
                "sentence": WORKLOADS[name].sentence,
                "operations": WORKLOADS[name].operations,
                "rivals": {rival: one.summary() for rival, one in series.items()},
            }
            for name, series in results.items()
        },
        "memory": bytes_used,
        "targets": [target.verdict(results) for target in TARGETS],
    }


def _tell(screen: Screen) -> None:
    """Tell what there is to run, and against whom."""
    for workload in WORKLOADS.values():
        screen.say(f"{workload.name}: {workload.sentence}")
    screen.say(f"{_MEMORY}: bytes per connection that is out, and per waiter")
    for rival in RIVALS.values():
        screen.say(f"  {rival.name}: {rival.sentence}{f' Not here: {rival.missing}.' if rival.missing else ''}")


def main() -> None:
    """Run what was asked for."""
    arguments, screen = _arguments(), Screen()
    if arguments.list:
        _tell(screen)
        return
    if arguments.plots:
        try:
            plots.need_matplotlib()
        except plots.PlotsUnavailable as error:
            sys.exit(str(error))
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)
    chosen = [name for name in (*WORKLOADS, _MEMORY) if not arguments.only or name in arguments.only]
    names = [name for name in chosen if name != _MEMORY]
    with EmbeddedPostgres(max_connections=100) as server:
        screen.title(server.version)
        results = asyncio.run(_run(names, Setting(server.url()), arguments, screen))
        bytes_used = asyncio.run(_memory()) if _MEMORY in chosen else {}
        version = server.version
    if bytes_used:
        screen.memory(bytes_used)
    if results:
        screen.targets(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(_report(results, bytes_used, version), indent=1) + "\n")
    if arguments.plots:
        for path in plots.draw(results, arguments.plots):
            screen.say(f"drew {path}")


if __name__ == "__main__":
    main()
