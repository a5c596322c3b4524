"""
What a scrape does to the event loop: `python -m benchmarks.scraping`.

The samples of so many leases wait when `/metrics` is asked for: on the loop, as `make_asgi_app()` does it, and in a thread,
by our collector and by OpenTelemetry's exporter. Told is how long that takes, and by how much a turn of the loop is late meanwhile.
On a machine that others use, as root: `chrt -f 1 python -m benchmarks.scraping`; else one sees mostly them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import time
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.figures import quantile
from sqla_poolguard import _naming
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._otel import observe
from sqla_poolguard.prometheus import register

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_TURN: Final = 0.001
_OURS, _OTEL = CollectorRegistry(), CollectorRegistry()


async def _on_the_loop(scrape: Callable[[], object]) -> None:
    scrape()


async def _in_a_thread(scrape: Callable[[], object]) -> None:
    await asyncio.to_thread(scrape)


async def _for_a_while(_: object) -> None:
    await asyncio.sleep(0.1)


KINDS: Final[dict[str, tuple[CollectorRegistry, Callable[[Callable[[], object]], Awaitable[None]]]]] = {
    "nothing is scraped": (_OURS, _for_a_while),
    "our collector, on the loop": (_OURS, _on_the_loop),
    "our collector, in a thread": (_OURS, _in_a_thread),
    "OpenTelemetry's exporter, on the loop": (_OTEL, _on_the_loop),
    "OpenTelemetry's exporter, in a thread": (_OTEL, _in_a_thread),
}


async def _round(kind: str, ledger: Ledger, samples: int) -> tuple[list[float], float]:
    """Give the seconds by which each turn of the loop is late, and those that the scrape took."""
    registry, scrape = KINDS[kind]
    ledger.samples.extend((0.0001 * (sample % 100), 0.001 * (sample % 1000)) for sample in range(samples))
    loop, late, over = asyncio.get_running_loop(), [], False

    async def turn() -> None:
        while not over:
            due = loop.time() + _TURN
            await asyncio.sleep(_TURN)
            late.append(loop.time() - due)
            sum(range(2000))  # as an application does: some tens of microseconds

    turning = asyncio.create_task(turn())
    await asyncio.sleep(0.02)
    late.clear()
    began = time.perf_counter()
    await scrape(lambda: generate_latest(registry))
    took = time.perf_counter() - began
    over = True
    await turning
    return late, took


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scraping", description=__doc__)
    parser.add_argument("--samples", type=int, default=16_000, metavar="N", help="samples that wait (16000)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="scrapes of each kind (15)")
    arguments = parser.parse_args()
    provider = MeterProvider([PrometheusMetricReader(registry=_OTEL)], shutdown_on_exit=False)
    ours, theirs = Ledger(), Ledger()
    register(_OURS)
    _naming.claim("ours", ours)
    observe(theirs, "theirs", provider)
    late: dict[str, list[float]] = {kind: [] for kind in KINDS}
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    load = os.getloadavg()[0]
    gc.disable()
    for _ in range(arguments.rounds):
        for kind, (registry, _scrape) in KINDS.items():
            turns, seconds = asyncio.run(_round(kind, ours if registry is _OURS else theirs, arguments.samples))
            late[kind] += turns
            took[kind].append(seconds)
            gc.collect()
            ours.samples.clear()
    table = Table(
        box=box.SIMPLE,
        title=f"{arguments.samples:,} samples, {arguments.rounds} rounds; ms that a scrape takes, and by which a turn of the loop is late; "
        f"Python {platform.python_version()}, load {load:.1f} before the run",
        title_justify="left",
    )
    for head in ("", "scrape", "turns", "late p50", "p99", "max"):
        table.add_column(head, justify="right" if head else "left")
    for kind, turns in late.items():
        turns.sort()
        figures = (quantile(sorted(took[kind]), 0.5), quantile(turns, 0.5), quantile(turns, 0.99), turns[-1])
        scrape, *lateness = (f"{1000 * figure:.2f}" for figure in figures)
        table.add_row(kind, scrape, f"{len(turns):,}", *lateness)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
