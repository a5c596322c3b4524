"""Everything that is run, by name, in its order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks import contended, scale, uncontended

if TYPE_CHECKING:
    from benchmarks.workload import Workload

__all__ = ["WORKLOADS"]

WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload for workload in (*uncontended.WORKLOADS, *contended.WORKLOADS, *scale.WORKLOADS)
}
