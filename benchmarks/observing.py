"""
What telemetry adds to a checkout: `python -m benchmarks.observing`.

The same pool with telemetry off, and on: without an SDK, with one that exports now and then, and with one that exports too seldom,
so that the buffer of samples is full. Block by block, in turn; "off, again" is as "off", and tells how much of the rest is noise. "in the queue": bytecodes of a checkout
for which 4 tasks take turns on one connection, the engine's and asyncio's included.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import bytecodes, contended, loads
from benchmarks.figures import quantile, timed
from benchmarks.rivals import Rival
from benchmarks.uncontended import WORKLOADS
from benchmarks.workload import Setting
from sqla_poolguard import GuardedPool

if TYPE_CHECKING:
    from collections.abc import Callable

_POOL: Final = WORKLOADS[0]
_QUEUE: Final = replace(
    next(workload for workload in contended.WORKLOADS if workload.name == "tight-1"),
    run=lambda engine, n: loads.tight(engine, 4, n // 4),
)
"""Few tasks: while bytecodes are counted, everything takes so long that many would wait for longer than a span is worth."""
_OFF, _AGAIN, _NO_SDK, _SDK, _FULL = "off", "off, again", "on, no SDK", "on, SDK", "on, SDK, buffer full"


class _Contestant:
    """One way to have telemetry."""

    def __init__(self, between: Callable[[], object] = lambda: None, **options: Any) -> None:
        self.between = between
        """Done between two blocks."""
        self.rival = Rival("", "", GuardedPool.configure(**options))
        self.pool: Any = None
        self.seconds: list[float] = []


def _contestants() -> dict[str, _Contestant]:
    exporting, reader = MeterProvider([found := InMemoryMetricReader()]), MeterProvider([InMemoryMetricReader()])
    return {
        _OFF: _Contestant(telemetry=False),
        _AGAIN: _Contestant(telemetry=False),
        _NO_SDK: _Contestant(),
        "on, NoOpMeterProvider": _Contestant(meter_provider=NoOpMeterProvider()),
        _SDK: _Contestant(found.get_metrics_data, meter_provider=exporting),
        _FULL: _Contestant(meter_provider=reader),
    }


async def _measure(rounds: int) -> dict[str, dict[str, float]]:
    contestants = _contestants()
    for one in contestants.values():
        one.pool = await _POOL.ready(one.rival, Setting(url=""))
        one.between()
    order = list(contestants.values())
    for number in range(rounds):
        gc.collect()
        gc.disable()
        for one in order[:: -1 if number % 2 else 1]:
            block = await timed(_POOL.operations, partial(_POOL.run, one.pool, _POOL.operations))
            one.between()
            one.seconds.append(block.wall / block.operations)
        gc.enable()
        order.append(order.pop(0))
    base = contestants[_OFF]
    found = {}
    for name, one in contestants.items():
        added = sorted(ours - theirs for ours, theirs in zip(one.seconds, base.seconds, strict=True))
        found[name] = {
            "us": 1e6 * statistics.median(one.seconds),
            "adds us": 1e6 * statistics.median(added),
            "p20": 1e6 * quantile(added, 0.2),
            "p80": 1e6 * quantile(added, 0.8),
            "ratio": statistics.median(ours / theirs for ours, theirs in zip(one.seconds, base.seconds, strict=True)),
        }
        if bytecodes.COUNTS:
            found[name]["bytecodes"] = await bytecodes.total(_POOL, one.pool)
            one.between()
            queue = await _QUEUE.ready(one.rival, Setting(url=""))
            await _QUEUE.run(queue, 100)
            found[name]["in the queue"] = statistics.median([await bytecodes.total(_QUEUE, queue) for _ in range(9)])
            await _QUEUE.done(queue)
        await _POOL.done(one.pool)
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=400, metavar="N", help="rounds of blocks of 400 checkouts (400)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    found = asyncio.run(_measure(arguments.rounds))
    title = f"{_POOL.sentence}; Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}; medians of {arguments.rounds} rounds"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for head in ("telemetry", "us", "adds us", "p20", "p80", "ratio", "bytecodes", "in the queue"):
        table.add_column(head, justify="left" if head == "telemetry" else "right")
    for name, row in found.items():
        digits = {"us": 2, "adds us": 3, "p20": 3, "p80": 3, "ratio": 3, "bytecodes": 1, "in the queue": 0}
        table.add_row(name, *(f"{row[key]:.{places}f}" if key in row else "-" for key, places in digits.items()))
    Console(width=150).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
