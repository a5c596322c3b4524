"""The tasks of this process, whichever loop they belong to: those that a test left over, and those that hold a connection."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import sleep, tasks
from asyncio.events import _get_running_loop
from time import monotonic
from time import sleep as sleep_in_thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqla_poolguard._naming import ledgers

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable, Collection, Coroutine, Iterable

    from sqla_poolguard._testing.stays import Stay

__all__ = ["NOT_AT_ALL", "is_runner", "let_ask", "listed", "living_tasks", "quiesce", "unfinished_tasks", "until_back"]

NOT_AT_ALL: Final = -1.0
"""Seconds to `quiesce` in which no loop has a single turn."""
_REGISTERS: Final = tuple(
    (getattr(register, "data", register), register)
    for name in ("_scheduled_tasks", "_eager_tasks", "_all_tasks")
    if (register := getattr(tasks, name, None)) is not None
)
"""Where asyncio keeps all tasks, and what tells quickly whether there are any; it depends on the version of Python."""
_RUNNERS: Final = frozenset({"TestRunner._run_tests_and_fixtures"})
"""Tasks in which a test framework runs all tests and fixtures: anyio's."""
_TURNS: Final = 10
"""Turns of its loop that a connection has to come back in when no task is left that could bring it."""
_LONGEST_PAUSE: Final = 0.01
_Listed = TypeVar("_Listed")
_CLOCK: Final = (monotonic,)
"""Within a tuple: libraries that stop the time for a test replace every module's attribute."""


def is_runner(task: Task[Any]) -> bool:
    """Tell whether a test framework runs the tests themselves in a task."""
    return getattr(task.get_coro(), "__qualname__", "") in _RUNNERS


def unfinished_tasks() -> list[Task[Any]]:
    """Give all tasks that have not finished."""
    found: dict[int, Task[Any]] = {}
    for references, register in _REGISTERS:
        if references:
            found.update((id(task), task) for task in listed(register) if not task.done())
    return list(found.values()) if found else []


def living_tasks() -> list[Task[Any]]:
    """Give those that can still do something, but not those in which a framework runs the tests."""
    found = unfinished_tasks()
    return [task for task in found if not task.get_loop().is_closed() and not is_runner(task)] if found else found


def listed(register: Iterable[_Listed]) -> list[_Listed]:
    """Look at what another thread may change meanwhile."""
    while True:
        try:
            return list(register)
        except RuntimeError:  # it has just done so
            continue


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
            _let_run(loop, until_back(out, seconds))
        if loop.is_running():  # in another thread
            _wait_for_thread(out, seconds)


def let_ask(earlier: Collection[Task[Any]], seconds: float) -> None:
    """
    Let tasks get the connections that they are asking for.

    Args:
        earlier: tasks that are not meant.
        seconds: how long, at most, for each event loop.
    """
    own = living_tasks()
    if not own or seconds < 0 or _get_running_loop() is not None:
        return
    for loop in {task.get_loop() for task in own if task not in earlier}:
        if not loop.is_running() and _is_anybody_asking():
            _let_run(loop, _until(lambda: not _is_anybody_asking(), seconds))


def _is_anybody_asking() -> bool:
    return any(ledger.waiting > 0 for ledger in ledgers())


def _let_run(loop: AbstractEventLoop, waiting: Coroutine[Any, Any, None]) -> None:
    """Let a loop run, unless somebody stops it, or another thread has begun to run it; what else comes out is not of the loop."""
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
    until = _CLOCK[0]() + seconds
    while any(stay.is_out for stay in stays) and _CLOCK[0]() < until:
        sleep_in_thread(_LONGEST_PAUSE)


async def until_back(stays: list[Stay], seconds: float) -> None:
    """
    Let the loop run until connections are back, or nobody is left who could bring them.

    Args:
        stays: what is out.
        seconds: how long, at most.
    """
    await _until(lambda: not any(stay.is_out for stay in stays), seconds)


async def _until(is_done: Callable[[], bool], seconds: float) -> None:
    """Let the loop run; it is not asked to wake anybody up after a pause, since its clock may have been stopped for the test."""
    own, loop = asyncio.current_task(), asyncio.get_running_loop()
    until, pause, turns = _CLOCK[0]() + seconds, 0.0, 0
    while not is_done() and _CLOCK[0]() < until:
        others = [task for task in living_tasks() if task is not own and task.get_loop() is loop]
        turns += 1
        if not others and turns > _TURNS:
            return
        await sleep(0)
        if turns > _TURNS:
            pause = min(pause + 0.001, _LONGEST_PAUSE)
            sleep_in_thread(pause)  # noqa: ASYNC251 - see above
    for _ in range(min(turns, _TURNS)):  # whoever has brought a connection may end, too
        await sleep(0)
