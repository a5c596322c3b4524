"""The tasks of this process, whichever loop they belong to: those that a test left over, and those that hold a connection."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from asyncio import sleep, tasks
from asyncio.events import _get_running_loop
from time import monotonic
from time import sleep as sleep_in_thread
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._awaits import chain_of, context_of
from sqla_poolguard._testing.witness import lineage

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Collection, Iterable

    from sqla_poolguard._testing.stays import Owner, Stay

__all__ = ["NOT_AT_ALL", "is_runner", "living_tasks", "mark_left_over", "quiesce", "tasks_till_now", "until_back"]

NOT_AT_ALL: Final = -1.0
"""Seconds to `quiesce` in which no loop has a single turn."""
_REGISTERS: Final = ("_scheduled_tasks", "_eager_tasks", "_all_tasks")
"""Where asyncio keeps all tasks; which of them there are depends on the version of Python."""
_RUNNERS: Final = frozenset({"TestRunner._run_tests_and_fixtures"})
"""Tasks in which a test framework runs all tests and fixtures: anyio's."""
_TURNS: Final = 10
"""Turns of its loop that a connection has to come back in when no task is left that could bring it."""
_LONGEST_PAUSE: Final = 0.01
_PATIENCE: Final = 0.1
"""Seconds to wait, at most, for a loop in another thread that may be blocked."""


def is_runner(task: Task[Any]) -> bool:
    """Tell whether a test framework runs the tests themselves in a task."""
    return getattr(task.get_coro(), "__qualname__", "") in _RUNNERS


def living_tasks() -> list[Task[Any]]:
    """Give all tasks that have not finished, but those in which a framework runs the tests."""
    found: dict[int, Task[Any]] = {}
    for register in _REGISTERS:
        known = getattr(tasks, register, None)
        if known:
            found.update((id(task), task) for task in _listed(known))
    if not found:
        return []
    return [task for task in found.values() if not task.done() and not task.get_loop().is_closed() and not is_runner(task)]


def tasks_till_now() -> Collection[Task[Any]]:
    """Remember those, as long as somebody else does."""
    return weakref.WeakSet(found) if (found := living_tasks()) else ()


def _listed(register: Iterable[Task[Any]]) -> list[Task[Any]]:
    while True:
        try:
            return list(register)
        except RuntimeError:  # another thread has made a task meanwhile
            continue


def mark_left_over(known: weakref.WeakKeyDictionary[Task[Any], Owner], owner: Owner, others: Collection[Task[Any]] = ()) -> None:
    """
    Note, in the context of every task that is left over, whose it is; the tasks that it begins inherit that.

    A loop that runs in another thread does it by itself, in between two steps: the contexts may be entered at this moment.

    Args:
        known: tasks that somebody else has left over before; the new ones are added.
        owner: who has left these.
        others: tasks that it has not begun.
    """
    elsewhere: dict[AbstractEventLoop, list[Task[Any]]] = {}
    for task in living_tasks():
        if task in known or task in others:
            continue
        known[task] = owner
        loop = task.get_loop()
        if loop.is_running():
            elsewhere.setdefault(loop, []).append(task)
        else:
            _mark(task, owner)
    for loop, theirs in elsewhere.items():
        if loop is not _get_running_loop():
            _mark_in_thread(loop, theirs, owner)


def _mark(task: Task[Any], owner: Owner) -> None:
    context = context_of(chain_of(task))
    if context is not None:
        with contextlib.suppress(RuntimeError):  # it is entered
            context.run(lineage.set, owner)


def _mark_in_thread(loop: AbstractEventLoop, theirs: list[Task[Any]], owner: Owner) -> None:
    done = threading.Event()

    def mark() -> None:
        for task in theirs:
            _mark(task, owner)
        done.set()

    with contextlib.suppress(RuntimeError):  # it has been closed meanwhile
        loop.call_soon_threadsafe(mark)
        done.wait(_PATIENCE)


def quiesce(stays: Iterable[Stay], seconds: float) -> None:
    """
    Give connections time to come back, as long as anybody is left who could bring them.

    Args:
        stays: what is out.
        seconds: how long, at most, for each event loop.
    """
    if seconds < 0:
        return
    by_loop: dict[AbstractEventLoop, list[Stay]] = {}
    for stay in stays:
        if stay.loop is not None:
            by_loop.setdefault(stay.loop, []).append(stay)
    for loop, out in by_loop.items():
        if loop.is_closed() or _get_running_loop() is not None:
            continue
        if not loop.is_running():
            _let_run(loop, out, seconds)
        if loop.is_running():  # in another thread
            _wait_for_thread(out, seconds)


def _let_run(loop: AbstractEventLoop, stays: list[Stay], seconds: float) -> None:
    """Let a loop run, unless somebody stops it, or another thread has begun to run it; what else comes out is not of the loop."""
    waiting = until_back(stays, seconds)
    try:
        with contextlib.suppress(RuntimeError):
            loop.run_until_complete(waiting)
    finally:
        task = next((task for task in living_tasks() if task.get_coro() is waiting), None)
        if task is None:
            waiting.close()  # it has ended, or has never begun
        else:
            task.cancel()
            with contextlib.suppress(RuntimeError, asyncio.CancelledError):
                loop.run_until_complete(task)


def _wait_for_thread(stays: list[Stay], seconds: float) -> None:
    until = monotonic() + seconds
    while any(stay.is_out for stay in stays) and monotonic() < until:
        sleep_in_thread(_LONGEST_PAUSE)


async def until_back(stays: list[Stay], seconds: float) -> None:
    """
    Let the loop run until connections are back, or nobody is left who could bring them.

    Args:
        stays: what is out.
        seconds: how long, at most.
    """
    own, loop = asyncio.current_task(), asyncio.get_running_loop()
    until, pause, turns = monotonic() + seconds, 0.0, 0
    while any(stay.is_out for stay in stays) and monotonic() < until:
        others = [task for task in living_tasks() if task is not own and task.get_loop() is loop]
        turns += 1
        if not others and turns > _TURNS:
            return
        await sleep(pause)
        if turns > _TURNS:
            pause = min(pause + 0.001, _LONGEST_PAUSE)
