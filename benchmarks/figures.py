"""What one block measured, and what many blocks say together. It knows neither rivals nor workloads."""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Block", "Series", "quantile", "ratio", "timed"]


@dataclass(frozen=True, slots=True)
class Block:
    """One rival's turn at one workload. Seconds."""

    operations: int
    wall: float
    cpu: float
    """CPU time of this process, server not included."""
    kernel: float
    """Of it, what the kernel took, as far as it tells: right on average only."""
    waits: tuple[float, ...] = ()
    """How long each operation waited for its connection, where the workload is about waiting."""

    def figures(self) -> dict[str, float]:
        """Give this block's figures by name: per operation, or of the whole block where operations wait."""
        if not self.waits:
            return {
                "time": self.wall / self.operations,
                "cpu": self.cpu / self.operations,
                "kernel": self.kernel / self.operations,
            }
        waits = sorted(self.waits)
        return {
            "wall": self.wall,
            "cpu": self.cpu,
            "median wait": quantile(waits, 0.5),
            "p99 wait": quantile(waits, 0.99),
            "max wait": waits[-1],
            "wait spread": quantile(waits, 0.8) - quantile(waits, 0.2),
        }


@dataclass(slots=True)
class Series:
    """One rival's blocks of one workload, in the order of the rounds, and what was counted once."""

    blocks: list[dict[str, float]] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    note: str | None = None
    """Why there are no blocks."""

    def of(self, figure: str) -> list[float]:
        """Give one figure of every block."""
        return [block[figure] for block in self.blocks]

    def median(self, figure: str) -> float:
        """Give the median over the blocks."""
        return statistics.median(self.of(figure))

    def mean(self, figure: str) -> float:
        """Give the mean over the blocks."""
        return statistics.fmean(self.of(figure))

    def summary(self) -> dict[str, Any]:
        """Give everything there is, for JSON."""
        if self.note:
            return {"note": self.note}
        names = self.blocks[0] if self.blocks else ()
        return {
            "rounds": len(self.blocks),
            **{
                name: {
                    "median": self.median(name),
                    "p20": quantile(sorted(self.of(name)), 0.2),
                    "p80": quantile(sorted(self.of(name)), 0.8),
                    "p99": quantile(sorted(self.of(name)), 0.99),
                    "max": max(self.of(name)),
                }
                for name in names
            },
            **self.counts,
        }


def quantile(ordered: Sequence[float], part: float) -> float:
    """Give the value below which a part of these lies; they are in order."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def ratio(series: Series, base: Series, figure: str) -> float:
    """
    Compare two rivals, round by round: the median of the ratios.

    What disturbed the machine in one round disturbed both.
    """
    pairs = zip(series.of(figure), base.of(figure), strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs if theirs)


async def timed(operations: int, run: Callable[[], Awaitable[Sequence[float] | None]]) -> Block:
    """Time one block."""
    kernel, cpu, began = _kernel_time(), time.process_time(), time.perf_counter()
    waits = await run()
    wall = time.perf_counter() - began
    return Block(operations, wall, time.process_time() - cpu, _kernel_time() - kernel, tuple(waits or ()))


def _kernel_time() -> float:
    """Read for how many seconds the kernel has worked for this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime
