"""Bytecodes per checkout, exact and the same on every machine; by function with `python -m benchmarks.bytecodes WORKLOAD [RIVAL]`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import CodeType

    from benchmarks.workload import Workload

__all__ = ["COUNTS", "per_checkout", "total"]

COUNTS: Final = hasattr(sys, "monitoring")
"""Whether this Python can count them (3.12+)."""

_TIMES: Final = 100
_TOOL: Final = 3


async def per_checkout(workload: Workload, subject: Any) -> dict[CodeType, float]:
    """Count the bytecodes of one checkout and checkin, by the code they belong to."""
    monitoring, seen = sys.monitoring, Counter[Any]()

    def count(code: CodeType, _offset: int) -> None:
        seen[code] += 1

    monitoring.use_tool_id(_TOOL, "benchmarks")
    try:
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, count)
        monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
        await workload.run(subject, _TIMES)
    finally:
        monitoring.set_events(_TOOL, 0)
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(_TOOL)
    return {code: count / _TIMES for code, count in seen.items()}


async def total(workload: Workload, subject: Any) -> float:
    """Count the bytecodes of one checkout and checkin, the workload's own loop included."""
    return sum((await per_checkout(workload, subject)).values())


async def _by_function(name: str, rival: str) -> None:
    from benchmarks.plan import WORKLOADS  # noqa: PLC0415 - they count with this module
    from benchmarks.rivals import RIVALS  # noqa: PLC0415 - they count with this module
    from benchmarks.workload import Setting  # noqa: PLC0415 - they count with this module

    workload = WORKLOADS[name]
    subject = await workload.ready(RIVALS[rival], Setting(url=""))
    counts = Counter(await per_checkout(workload, subject))
    await workload.done(subject)
    print(f"{sum(counts.values()):.0f} bytecodes: {workload.sentence}; {rival}")
    for code, count in counts.most_common(40):
        if count >= 1:
            print(f"{count:8.1f}  {code.co_qualname}  ({os.path.basename(code.co_filename)})")


if __name__ == "__main__":
    asyncio.run(_by_function(sys.argv[1] if len(sys.argv) > 1 else "engine", sys.argv[2] if len(sys.argv) > 2 else "GuardedPool"))
