"""
What an export does to the event loop: `python -m benchmarks.draining`.

A reader's thread collects the samples that wait, 30,000 of them, while the event loop turns once a millisecond and does a little work.
Told is how much later than due a turn begins, against turns of the same loop while nothing is collected, in the same run.
"Our part" is what the callbacks do; after them the SDK collects every series, without a pause: with hundreds of engines that takes longer than a turn.
On a machine that others use, as root: `chrt -f 1 python -m benchmarks.draining`; else one sees mostly them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.figures import quantile
from sqla_poolguard import Guard
from sqla_poolguard._connecting import make_breaker
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._otel import _metrics, _pace, observe
from sqla_poolguard._otel._providers import metrics_of
from sqla_poolguard._slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

_TURN: Final = 0.001
_QUIET, _DRAIN, _OURS, _ENDLESS = "nothing is collected", "drained as it is", "of that, our part", "drained without a pause"


def _drain(samples: int, engines: int, kind: str) -> Callable[[], float]:
    """Have so many samples of so many pools wait; give what collects them, and gives the seconds that it took."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    ledgers = [Ledger() for _ in range(engines)]
    slots: list[Slots[Any]] = [Slots(5, 10, make_breaker(Guard(), 30)) for _ in ledgers]
    for number, ledger in enumerate(ledgers):
        observe(ledger, f"pool {number}", provider)
        ledger.open_pool(slots[number])
        ledger.samples.extend((0.0001 * (sample % 100), 0.001 * (sample % 1000)) for sample in range(samples // engines))

    metrics = metrics_of(provider)
    callbacks = [partial(metrics._observe, read) for read in _metrics.GAUGES.values()]

    def drain() -> float:
        assert slots, "kept as long as this"
        steps, _pace.STEPS = _pace.STEPS, _pace.STEPS if kind != _ENDLESS else sys.maxsize  # type: ignore[misc]
        began = time.perf_counter()
        if kind == _OURS:
            for callback in callbacks:
                for _ in callback(CallbackOptions()):
                    pass
        else:
            reader.get_metrics_data()
        took = time.perf_counter() - began
        _pace.STEPS = steps  # type: ignore[misc]
        assert not any(ledger.samples for ledger in ledgers)
        return took

    return drain


async def _turns(done: threading.Event) -> list[float]:
    """Turn once a millisecond; give the seconds by which each turn was late."""
    loop, late = asyncio.get_running_loop(), []
    while not done.is_set():
        due = loop.time() + _TURN
        await asyncio.sleep(_TURN)
        late.append(loop.time() - due)
        sum(range(2000))  # as an application does: some tens of microseconds
    return late


async def _round(kind: str, samples: int, engines: int, quiet: float) -> tuple[list[float], float]:
    done, took = threading.Event(), [quiet]
    collect = _drain(samples, engines, kind)

    def work() -> None:
        if kind == _QUIET:
            time.sleep(quiet)
        else:
            took[0] = collect()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    late = await _turns(done)
    thread.join()
    return late, took[0]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draining", description=__doc__)
    parser.add_argument("--samples", type=int, default=30_000, metavar="N", help="samples of a drain (30000)")
    parser.add_argument("--engines", type=int, default=2, metavar="N", help="engines to which they belong (2)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="drains of each kind (10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    late: dict[str, list[float]] = {_QUIET: [], _DRAIN: [], _OURS: [], _ENDLESS: []}
    took: dict[str, list[float]] = {kind: [] for kind in late}
    load = os.getloadavg()[0]
    gc.disable()
    for _ in range(arguments.rounds):
        for kind in late:
            turns, seconds = asyncio.run(
                _round(kind, arguments.samples, arguments.engines, took[_DRAIN][-1] if took[_DRAIN] else 0.5)
            )
            late[kind] += turns
            took[kind].append(seconds)
            gc.collect()
    found = {}
    table = Table(
        box=box.SIMPLE,
        title=f"{arguments.samples:,} samples of {arguments.engines:,} engines, {arguments.rounds} rounds; ms by which a turn of the loop is late; "
        f"Python {platform.python_version()}, load {load:.1f} before the run",
        title_justify="left",
    )
    for head in ("", "seconds", "turns", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(head, justify="right" if head else "left")
    for kind, turns in late.items():
        turns.sort()
        row = {f"p{100 * part:g}": 1000 * quantile(turns, part) for part in (0.5, 0.9, 0.99, 0.999)} | {"max": 1000 * turns[-1]}
        found[kind] = {"seconds": sorted(took[kind])[len(took[kind]) // 2], "turns": len(turns), **row}
        table.add_row(kind, f"{found[kind]['seconds']:.2f}", f"{len(turns):,}", *(f"{value:.2f}" for value in row.values()))
    console = Console(width=150, highlight=False)
    console.print(table)
    console.print(f"A drain adds {found[_DRAIN]['p99'] - found[_QUIET]['p99']:.2f} ms at p99.")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
