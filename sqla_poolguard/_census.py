"""Finds out which task has which connection, where that is not the task that checked it out."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Self

from sqla_poolguard._awaits import chain_of
from sqla_poolguard._reach import connections_of, variables_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Mapping

__all__ = ["Census", "Inquiry"]

_SECONDS: Final = 0.002


class Inquiry:
    """The question which task has a connection."""

    __slots__ = ("about", "found", "is_over")

    def __init__(self, fairy: object) -> None:
        """Ask about the pool's connection, as SQLAlchemy holds it."""
        self.about = id(fairy)
        self.is_over = False
        self.found: weakref.ref[Task[Any]] | None = None
        """The task, if there is one; known when the inquiry is over."""

    @classmethod
    def answered(cls) -> Self:
        """Make one that is over, since there is no connection any more, or no task that could have it."""
        inquiry = cls(None)
        inquiry.is_over = True
        return inquiry


class Census:
    """
    Goes through all tasks of an event loop, once for all inquiries that were made before it began.

    It may take a while, so it goes on where it stopped, a few milliseconds at a time. Tasks are held weakly.
    """

    __slots__ = ("_depth", "_found", "_left", "_next", "_now")

    def __init__(self, depth: int) -> None:
        """
        Begin with nothing to do.

        Args:
            depth: how deep to look into the variables of a frame; see `_reach`.
        """
        self._depth = depth
        self._next: list[Inquiry] = []
        self._now: list[Inquiry] = []
        self._left: list[weakref.ref[Task[Any]]] = []
        self._found: dict[int, weakref.ref[Task[Any]]] = {}

    @property
    def is_asked(self) -> bool:
        """Whether there is something to find out."""
        return bool(self._next or self._now)

    def ask(self, fairy: object) -> Inquiry:
        """Ask which task has a connection."""
        inquiry = Inquiry(fairy)
        self._next.append(inquiry)
        return inquiry

    def go_on(self, loop: AbstractEventLoop, drivers: Mapping[int, int]) -> None:
        """
        Look at some more tasks, if anybody has asked.

        Args:
            loop: the running loop.
            drivers: the pool's connections that are out (by id), by the driver's own (by id).
        """
        if not self._now:
            self._now, self._next = self._next, []
            self._left = [weakref.ref(task) for task in asyncio.all_tasks(loop)]
        until = time.monotonic() + _SECONDS
        while self._left:
            task = self._left.pop()()
            if task is not None and not task.done():
                self._look_at(task, drivers)
            if time.monotonic() > until and self._left:
                return
        for inquiry in self._now:
            inquiry.found, inquiry.is_over = self._found.get(inquiry.about), True
        self._now = []
        self._found.clear()

    def _look_at(self, task: Task[Any], drivers: Mapping[int, int]) -> None:
        chain, reference = chain_of(task), weakref.ref(task)
        for connection in connections_of(chain, self._depth):
            fairy = getattr(connection, "_dbapi_connection", None)
            if fairy is not None:  # it is not closed
                self._found.setdefault(id(fairy), reference)
        for value in variables_of(chain):
            if id(value) in drivers:
                self._found.setdefault(drivers[id(value)], reference)
