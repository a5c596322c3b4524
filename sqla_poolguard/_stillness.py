"""Tells whether a task, and all that it has to do with, still await what they awaited: then it need not be looked at again."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from sqla_poolguard._awaits import chain_of
from sqla_poolguard._joins import groups, kin

if TYPE_CHECKING:
    from asyncio import Future, Task

    from sqla_poolguard._awaits import Chain

__all__ = ["Stillness"]


class Stillness:
    """What a task, those that it waits for, and those of its task groups await. It holds all of them weakly."""

    __slots__ = ("_groups", "_waits")

    def __init__(self, chain: Chain, depth: int) -> None:
        """
        Note what is awaited now.

        Args:
            chain: the task's.
            depth: how many generations of tasks it has to do with.
        """
        self._waits: list[tuple[weakref.ref[Task[Any]], weakref.ref[Future[Any]] | None]] = []
        self._groups: list[tuple[weakref.ref[Any], int]] = []
        self._note(chain, depth, set())

    def _note(self, chain: Chain, depth: int, seen: set[int]) -> None:
        seen.add(id(chain.task))
        self._waits.append((weakref.ref(chain.task), weakref.ref(chain.future) if chain.future is not None else None))
        for hop in chain.hops:
            self._groups += [(weakref.ref(group), len(group._tasks)) for group in groups(hop)]
        for task in kin(chain) if depth else ():
            if id(task) not in seen:
                self._note(chain_of(task), depth - 1, seen)

    def lasts(self, task: Task[Any]) -> bool:
        """Tell whether nothing has changed; `task` is the one that it should be about."""
        about: Task[Any] | None = task
        for owner, awaited in self._waits:
            future = awaited() if awaited is not None else None
            if future is None or future.done():
                return False
            waits = owner()
            if getattr(waits, "_fut_waiter", None) is not future or (about is not None and waits is not about):
                return False
            about = None
        for reference, size in self._groups:
            group = reference()
            if group is None or len(group._tasks) != size:
                return False
        return True
