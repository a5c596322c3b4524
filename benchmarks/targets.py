"""What was promised, beside what was measured. The ratios are those of the project's issue 3, "To reach"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.figures import ratio
from benchmarks.interleave import label
from benchmarks.rivals import OTEL, OURS, OURS_SDK, STOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.figures import Series

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """One ratio to stay below."""

    what: str
    workload: str
    figure: str
    most: float
    ours: str = OURS
    base: str = STOCK

    def measured(self, results: Mapping[str, Mapping[str, Series]]) -> float | str:
        """Give the ratio that was measured, or say why there is none."""
        series = results.get(self.workload)
        if series is None:
            return "not run"
        ours, base = series[self.ours], series[self.base]
        if ours.note or base.note:
            return ours.note or base.note or ""
        return ratio(ours, base, self.figure)

    def verdict(self, results: Mapping[str, Mapping[str, Series]]) -> dict[str, Any]:
        """Compare, for tables and JSON."""
        measured = self.measured(results)
        reached = measured <= self.most if isinstance(measured, float) else None
        return {"what": self.what, "figure": self.figure, "to reach": self.most, "measured": measured, "reached": reached}


TARGETS: Final = (
    Target("pool connect+close", "pool", "time", 0.60),
    Target("engine.connect+close", "engine", "time", 0.90),
    Target("AsyncSession SELECT 1, PostgreSQL", "session", "time", 1.00),
    Target("contended 200 on 10, PostgreSQL", "contended", "cpu", 0.97),
    Target("contended 200 on 10, PostgreSQL", "contended", "p99 wait", 0.45),
    Target("contended 200 on 10, PostgreSQL", "contended", "max wait", 0.40),
    Target("burst 1,000 on 5+10, hold 2 ms, connect 5 ms", "burst-2ms", "wall", 0.45),
    Target("burst 600 x 20 ms + 0.5 ms CPU, PostgreSQL", "burst-postgres", "wall", 0.60),
    Target("commit loop 50 on 10, PostgreSQL", "commit-loop", "p99 wait", 0.15),
    Target("tight loops, 20 on 1 (worst case)", "tight-1", "wall", 1.10),
    Target("tight loops, 200 on 10 (worst case)", "tight-10", "wall", 1.10),
    Target("engine.connect+close against OpenTelemetry's, both with an SDK", "engine", "time", 0.40, OURS_SDK, OTEL),
    Target(
        "checkout with 10,000 waiters against 10", "waiters", "cpu", 1.30, label(OURS, 10_000), label(OURS, 10)
    ),
)  # fmt: skip
