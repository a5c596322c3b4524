"""Who waits for whom, and whether anybody of them can ever go on. Pure: tasks and pools are just names here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

__all__ = ["WaitGraph"]


@dataclass(slots=True)
class WaitGraph:
    """
    An AND-OR graph of waits.

    A task that joins others goes on when any of them can still end or fail, for a failure frees it too.
    A task that waits for a pool goes on when any connection of that pool can come back.
    A connection can come back when any task that has it can go on. What is not known to wait can go on.
    """

    joins: Mapping[Hashable, Iterable[Hashable]] = field(default_factory=dict)
    """Task to the tasks it waits for."""
    queues: Mapping[Hashable, Hashable] = field(default_factory=dict)
    """Task to the pool it waits for."""
    holders: Mapping[Hashable, Iterable[Iterable[Hashable]]] = field(default_factory=dict)
    """Pool to its connections, each as the tasks that have it; a pool that is not here has a connection to give."""

    def stuck(self, pool: Hashable) -> bool:
        """
        Tell whether no connection of a pool can ever come back.

        It is the least fixpoint of "can go on", so that it takes time linear in the graph for each round,
        and as many rounds as there are links in its longest chain.
        """
        free_pools: set[Hashable] = {queue for queue in self.queues.values() if queue not in self.holders}
        going: set[Hashable] = set()
        changed = True
        while changed:
            changed = False
            for name, connections in self.holders.items():
                if name not in free_pools and any(self._comes_back(tasks, going, free_pools) for tasks in connections):
                    free_pools.add(name)
                    changed = True
            for task in (*self.queues, *self.joins):
                if task not in going and self._goes_on(task, going, free_pools):
                    going.add(task)
                    changed = True
        return pool in self.holders and pool not in free_pools

    def _comes_back(self, tasks: Iterable[Hashable], going: set[Hashable], free_pools: set[Hashable]) -> bool:
        known = list(tasks)
        return not known or any(self._goes_on(task, going, free_pools) for task in known)

    def _goes_on(self, task: Hashable, going: set[Hashable], free_pools: set[Hashable]) -> bool:
        if task in going:
            return True
        if task in self.queues:
            return self.queues[task] in free_pools
        if task in self.joins:
            return any(self._goes_on_simply(other, going, free_pools) for other in self.joins[task])
        return True

    def _goes_on_simply(self, task: Hashable, going: set[Hashable], free_pools: set[Hashable]) -> bool:
        if task in going:
            return True
        if task in self.queues:
            return self.queues[task] in free_pools
        return task not in self.joins
