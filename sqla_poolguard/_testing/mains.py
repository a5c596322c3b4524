"""The tasks that run tests' own code: a test framework's, and one in which a limit has struck, such as pytest-timeout's, so that it never ended."""

from __future__ import annotations

import weakref
from asyncio import BaseEventLoop, Runner, Task
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._awaits import Hop
from sqla_poolguard._testing.tasks import is_runner

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["is_main", "note_interrupted"]

_RUNS: Final = {BaseEventLoop.run_until_complete.__code__: "future", Runner.run.__code__: "task"}
"""Functions that run a task, and the variable that has it; an event loop that is not asyncio's own has the second only."""

_interrupted: Final[weakref.WeakSet[Task[Any]]] = weakref.WeakSet()


def is_main(task: Task[Any]) -> bool:
    """Tell whether a task runs a test's own code, and so is nobody's background task."""
    return is_runner(task) or task in _interrupted


def note_interrupted(error: BaseException | None) -> bool:
    """
    Note the tasks that somebody ran, and that have not ended, though the one who ran them was left by an error.

    Args:
        error: what it was left by.

    Returns:
        Whether there is one: if its event loop ran again, it would go on.
    """
    trace: TracebackType | None = error.__traceback__ if error is not None else None
    is_there = False
    while trace is not None:
        frame = trace.tb_frame
        name = _RUNS.get(frame.f_code)
        task = Hop(frame.f_code, frame).local(name) if name is not None else None
        if isinstance(task, Task) and not task.done():
            _interrupted.add(task)
            is_there = True
        trace = trace.tb_next
    return is_there
