"""The answer as JSON: its names and units are a promise, kept in docs/reference/size.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._cli.size import paste
from sqla_poolguard._cli.size.explain import formulas
from sqla_poolguard._sizing import Verdict

if TYPE_CHECKING:
    from sqla_poolguard._cli.size.given import Inputs
    from sqla_poolguard._plan import Plan

__all__ = ["SCHEMA", "document"]

SCHEMA: Final = "poolguard.size/1"


def document(plan: Plan, inputs: Inputs, *, prepared: bool) -> dict[str, Any]:
    """Give it."""
    pooler = plan.verdict is Verdict.NEEDS_POOLER
    left = inputs.limits.left(inputs.others, inputs.headroom)
    return {
        "schema": SCHEMA,
        "verdict": str(plan.verdict),
        "reason": plan.reason,
        "advice": list(plan.advice),
        "suggested": {"pool_size": plan.size, "max_overflow": 0, "pool_timeout": plan.target.pool_timeout},
        "load": {
            "checkouts_per_second": plan.load.rate,
            "hold_seconds": plan.load.holds.mean,
            "hold_variation": plan.load.holds.variation,
            "outside_seconds": plan.load.outside,
            "burst": plan.load.burst,
            "nesting": plan.load.nesting,
            "tasks": plan.load.tasks,
        },
        "target": {"wait_seconds": plan.target.wait, "late_share": plan.target.share, "deadline_seconds": plan.target.deadline},
        "server": {
            "max_connections": inputs.limits.max_connections,
            "reserved": inputs.limits.withheld,
            "room": inputs.limits.allowed(left.bound),
            "bound": str(left.bound),
            "others": inputs.others.server,
            "others_of_role": inputs.others.role,
            "others_in_database": inputs.others.database,
            "headroom": inputs.headroom,
            "usable": plan.service.usable,
            "knee": None if plan.knee is None else list(plan.knee),
            "working": plan.working,
        },
        "processes": {"peak": plan.service.processes.peak, "pools": plan.service.processes.pools},
        "pool": {
            "checkouts_per_second": plan.rate,
            "busy": plan.busy,
            "needed": plan.demand,
            "deadlock_floor": plan.floor,
            "ceiling": plan.ceiling,
            "late_share": plan.wait_share,
            "needed_late_share": [plan.known.low, plan.known.high],
            "certain": plan.certain,
        },
        "total": plan.total,
        "shared": plan.shared,
        "shared_certain": plan.shared_certain,
        "simulated": plan.simulated,
        "played": plan.played,
        "curve": [{"pool_size": point.size, "late_share": point.share} for point in plan.curve],
        "sensitivity": [
            {
                "what": row.what,
                "hold_seconds": row.hold,
                "pool_size": row.size,
                "total": row.total,
                "fits": row.total <= plan.service.usable,
            }
            for row in plan.sensitivity
        ],
        "formulas": [formula._asdict() for formula in formulas(plan, inputs)],
        "measured": [{"source": each.source, "notes": list(each.notes)} for each in inputs.measured],
        "engine": paste.engine(plan, pooler=pooler, prepared=prepared),
        "pgbouncer": paste.pgbouncer(plan, prepared=prepared) if pooler else None,
    }
