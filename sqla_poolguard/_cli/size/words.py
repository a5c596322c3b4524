"""In words: how many processes there are, how many connections they may have, and which limit says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqla_poolguard._budget import Bound
from sqla_poolguard._cli.size.quantities import plural, shown_share

if TYPE_CHECKING:
    from sqla_poolguard._budget import Processes
    from sqla_poolguard._cli.size.given import Inputs
    from sqla_poolguard._plan import Plan

__all__ = ["PLAYED", "SOLVED", "how_words", "processes_words", "room_words", "unsure_words"]


PLAYED: Final = 2
"""Digits of a share that was played."""
SOLVED: Final = 3
"""Digits of one that a formula gives."""


def room_words(inputs: Inputs) -> str:
    """Give the sum of the limit that leaves the least; where that is not the server's, also what the server leaves."""
    limits, others = inputs.limits, inputs.others
    server = f"max_connections {limits.max_connections} - {limits.withheld} reserved"
    server += (f" - {others.server} of others" if others.server else "") + f" - {inputs.headroom} kept free"
    left = limits.left(others, inputs.headroom)
    if left.bound is Bound.SERVER:
        return f"{server} = {left.slots} usable"
    taken = others.role if left.bound is Bound.ROLE else others.database
    own = f"limit of the {left.bound} {limits.allowed(left.bound)} - {taken} of others = {left.slots} usable"
    return f"{own} (of the server {server} = {max(limits.allowed(Bound.SERVER) - others.server - inputs.headroom, 0)})"


def processes_words(processes: Processes) -> str:
    """Give the sum of the processes at the worst moment; what there is none of is left out."""
    replicas = [plural(processes.replicas, "replica")]
    replicas += [
        f"{count} {what}" for count, what in ((processes.surge, "surge"), (processes.terminating, "terminating")) if count
    ]
    words = " + ".join(replicas) if len(replicas) == 1 else f"({' + '.join(replicas)})"
    words += f" x {plural(processes.workers, 'process', 'processes')}"
    words += f" + {processes.more} more" if processes.more else ""
    words += f" = {processes.peak} at the peak"
    return words + (f", {processes.engines} engines each" if processes.engines > 1 else "")


def how_words(plan: Plan) -> str:
    """Say how it was found out how many wait."""
    if plan.simulated:
        return "played through"
    if not plan.solved:
        return "the worse of two formulas"
    return "Erlang C" if plan.load.burst == 1 else "M^X/M/c"


def unsure_words(plan: Plan) -> str:
    """Say what was not found out, however long the load was played; nothing where it was."""
    if plan.certain or plan.size > plan.demand:
        return ""
    below, goal = plan.known_below, plan.target.share
    if not plan.simulated:
        return f"the safe side: with {plan.demand - 1} it is {_between(below.low, below.high, SOLVED)}; so large a load would have to be played for too long"
    if plan.wild:
        return (
            f"not certain: with so long a tail of the holds, even {plan.played:,} checkouts tell little; measure, and leave room"
        )
    if plan.known.high > goal:
        return f"not certain: {_between(plan.known.low, plan.known.high)} wait that long with {plan.demand}"
    return (
        f"the safe side: with {plan.demand - 1} it is {_between(below.low, below.high)}, as far as {plan.played:,} checkouts tell"
    )


def _between(low: float, high: float, digits: int = PLAYED) -> str:
    return f"{shown_share(low, digits)} to {shown_share(high, digits)}" if low else f"up to {shown_share(high, digits)}"
