"""In words: how many processes there are, how many connections they may have, and which limit says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqla_poolguard._budget import Bound
from sqla_poolguard._cli.size.quantities import plural

if TYPE_CHECKING:
    from sqla_poolguard._budget import Processes
    from sqla_poolguard._cli.size.given import Inputs

__all__ = ["processes_words", "room_words"]


def room_words(inputs: Inputs) -> str:
    """Give the sum of the limit that leaves the least; where that is not the server's, also what the server leaves."""
    limits, others = inputs.limits, inputs.others
    server = f"max_connections {limits.max_connections} - {limits.withheld} reserved - {others.server} of others"
    server += f" - {inputs.headroom} kept free"
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
