"""
Whose is what outlives a test: tasks, timers, threads. What they check out later, and what they begin, is the same test's.

Tasks and timers are marked in their own contexts, which those inherit that they begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from asyncio.events import _get_running_loop
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqla_poolguard._awaits import chain_of, context_of
from sqla_poolguard._callsite import this_task
from sqla_poolguard._testing.mains import is_main
from sqla_poolguard._testing.tasks import listed, living_tasks, unfinished_tasks
from sqla_poolguard._testing.threads import Threads

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Handle, Task
    from collections.abc import Callable, Collection, Iterable

    from sqla_poolguard._testing.stays import Owner

__all__ = ["LeftOver", "Standing", "tasks_till_now"]

_PATIENCE: Final = 0.1
"""Seconds to wait, at most, for a loop in another thread that may be blocked."""

_lineage: Final[ContextVar[Owner | None]] = ContextVar("sqla_poolguard_lineage", default=None)
"""Whose task or timer this is, in those that were left over, and in what these begin."""


class Standing(NamedTuple):
    """What there was at some time."""

    tasks: Collection[Task[Any]] = ()
    timers: Collection[Handle] = ()


def tasks_till_now() -> Collection[Task[Any]]:
    """Remember the tasks that there are, as long as somebody else does."""
    return weakref.WeakSet(found) if (found := living_tasks()) else ()


class LeftOver:
    """What was left over in a run, and by whom."""

    def __init__(self) -> None:
        self._tasks: weakref.WeakKeyDictionary[Task[Any], Owner] = weakref.WeakKeyDictionary()
        self._loops: dict[int, weakref.ref[AbstractEventLoop]] = {}
        """Event loops that may outlive a test, by their ids."""
        self._has_tasks = False
        """Whether anybody has left any."""
        self.threads = Threads()

    def enter(self) -> Callable[[], None]:
        """Begin to note who begins threads; those that there are work for everybody. Gives a function that ends it."""
        self.threads.mark(None)
        return self.threads.watch(lambda: self.owner_of(self._this_task()))

    def owner_of(self, task: weakref.ref[Task[Any]] | None) -> Owner | None:
        """Tell whose is what is done now; None if it is nothing that was left over. Called for each checkout, where it is made."""
        owner = _lineage.get()
        if owner is None and self._has_tasks and task is not None:
            owner = self._tasks.get(task())  # type: ignore[arg-type] # it runs: it lives
            _lineage.set(owner)  # Python 3.11 does not always tell a task's context from outside
        return owner if owner is not None else self.threads.owner()

    def _this_task(self) -> weakref.ref[Task[Any]] | None:
        task = this_task() if self._has_tasks else None
        return weakref.ref(task) if task is not None else None

    def standing(self) -> Standing:
        """Look at what there is, and that somebody has begun before."""
        found = unfinished_tasks()
        return Standing(tasks_till_now(), weakref.WeakSet(self._timers(found)))

    def add_loop(self, of: object) -> None:
        """Note an event loop that outlives a test, if a fixture's value is one or runs one."""
        loop = of.get_loop() if isinstance(of, asyncio.Runner) else of
        if isinstance(loop, asyncio.AbstractEventLoop):
            self._loops[id(loop)] = weakref.ref(loop)

    def mark(self, owner: Owner, before: Standing = Standing()) -> None:  # noqa: B008 - a tuple
        """
        Note whose are the tasks and timers of which it is not known yet.

        Args:
            owner: who has left these.
            before: what was begun by others.
        """
        found = unfinished_tasks()
        if found:
            self._mark_tasks(owner, before.tasks)
        for timer in self._timers(found):
            if timer not in before.timers:
                with contextlib.suppress(RuntimeError):  # its context is entered
                    timer._context.run(_lineage.set, owner)

    def _mark_tasks(self, owner: Owner, others: Collection[Task[Any]]) -> None:
        """A loop that runs in another thread does it by itself, in between two steps: the contexts may be entered at this moment."""
        elsewhere: dict[AbstractEventLoop, list[Task[Any]]] = {}
        for task in living_tasks():
            if task in self._tasks or task in others or is_main(task):
                continue
            self._tasks[task] = owner
            self._has_tasks = True
            loop = task.get_loop()
            if loop.is_running():
                elsewhere.setdefault(loop, []).append(task)
            else:
                _mark_task(task, owner)
        for loop, theirs in elsewhere.items():
            if loop is not _get_running_loop():
                _mark_in_thread(loop, theirs, owner)

    def _timers(self, tasks: Iterable[Task[Any]]) -> list[Any]:
        """
        Give what the loops are going to call and is nobody's yet, but the steps of tasks; of asyncio's own loops, since others do not tell.

        Args:
            tasks: whose loops there are, too.
        """
        for task in tasks:
            self.add_loop(task.get_loop())
        found: list[Any] = []
        for key, reference in tuple(self._loops.items()):
            loop: Any = reference()
            if loop is None:
                del self._loops[key]
                continue
            for timers in (getattr(loop, "_scheduled", ()), getattr(loop, "_ready", ())):
                if timers:  # most were cancelled: loops keep those for a while
                    found += [timer for timer in listed(timers) if not timer._cancelled and _is_unmarked(timer)]
        return found


def _is_unmarked(timer: Any) -> bool:
    context = timer._context
    if context is None or context.get(_lineage) is not None:
        return False
    return not isinstance(getattr(timer._callback, "__self__", None), asyncio.Future)


def _mark_task(task: Task[Any], owner: Owner) -> None:
    context = context_of(chain_of(task))
    if context is not None:
        with contextlib.suppress(RuntimeError):  # it is entered
            context.run(_lineage.set, owner)


def _mark_in_thread(loop: AbstractEventLoop, theirs: list[Task[Any]], owner: Owner) -> None:
    done = threading.Event()

    def mark() -> None:
        for task in theirs:
            _mark_task(task, owner)
        done.set()

    with contextlib.suppress(RuntimeError):  # it has been closed meanwhile
        loop.call_soon_threadsafe(mark)
        done.wait(_PATIENCE)
