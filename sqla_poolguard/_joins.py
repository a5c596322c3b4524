"""Which tasks belong together: those that a suspended task waits for, and those that a framework runs for it."""

from __future__ import annotations

from asyncio import Future, Task
from typing import TYPE_CHECKING, Any

from sqla_poolguard._callsite import is_application, is_internal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._awaits import Chain, Hop

__all__ = ["delegates", "groups", "is_closing", "is_shield", "joined", "kin", "waiting_tasks"]


def joined(chain: Chain) -> list[Task[Any]]:
    """Give the unfinished tasks without whose end it cannot go on: of gather, a task group, wait, wait_for, shield, or awaited itself."""
    return _unique(_joined(chain))


def _joined(chain: Chain) -> list[Any]:
    """Give whatever it waits for, finished or not."""
    found: list[Any] = []
    future = chain.future
    if future is not None:
        if isinstance(future, Task):
            found.append(future)
        found += getattr(future, "_children", ())
        found += _shielded(future)
    for hop in chain.hops:
        if is_application(hop.code.co_filename):
            continue
        if hop.name in {"TaskGroup.__aexit__", "TaskGroup._aexit"}:
            found += getattr(hop.local("self"), "_tasks", None) or ()
        elif hop.name == "_wait" and hop.package == "asyncio":
            found += hop.local("fs") or ()
        elif hop.name == "wait_for" and hop.package == "asyncio":
            found.append(hop.local("fut"))
    return found


def delegates(chain: Chain, home: str | None = None) -> list[Task[Any]]:
    """Give the tasks that a framework runs for it: those of the task groups of libraries below its own innermost line."""
    found: list[Any] = []
    for hop in chain.hops[(chain.line(home) or 0) + 1 :]:
        if hop.package not in {"asyncio", "anyio"}:
            found += _grouped(hop)
    return _unique(found)


def kin(chain: Chain) -> list[Task[Any]]:
    """Give the tasks that it waits for, and those of the task groups in whose body it is."""
    found: list[Any] = list(joined(chain))
    for hop in chain.hops:
        found += _grouped(hop)
    return _unique(found)


def is_closing(chain: Chain) -> bool:
    """Tell whether it waits for a task of SQLAlchemy's own: it closes in one that is shielded."""
    at = next((hop for hop in reversed(chain.hops) if not hop.in_greenlet), None)
    if at is None or not is_internal(at.code.co_filename):
        return False
    return any(
        (code := getattr(task.get_coro(), "cr_code", None)) is not None and is_internal(code.co_filename)
        for task in _joined(chain)
        if isinstance(task, Task)
    )


def waiting_tasks(future: Future[Any]) -> Iterator[Task[Any]]:
    """Give the tasks that await a future themselves."""
    for entry in getattr(future, "_callbacks", None) or ():
        owner = getattr(entry[0] if isinstance(entry, tuple) else entry, "__self__", None)
        if isinstance(owner, Task):
            yield owner


def is_shield(future: Future[Any]) -> bool:
    """Tell whether a future is what `asyncio.shield` gives."""
    return any(isinstance(inner, Future) for inner in _shielded(future))


def groups(hop: Hop) -> list[Any]:
    """Give asyncio's and anyio's task groups that a frame has, and whose tasks can be told."""
    found = [
        value for value in hop.values() if type(value).__name__ == "TaskGroup" and isinstance(getattr(value, "_tasks", None), set)
    ]
    return [group for group in found if type(group).__module__.partition(".")[0] in {"asyncio", "anyio"}]


def _grouped(hop: Hop) -> list[Any]:
    return [task for group in groups(hop) for task in group._tasks]


def _shielded(future: Future[Any]) -> list[Any]:
    found = []
    for entry in getattr(future, "_callbacks", None) or ():
        callback = entry[0] if isinstance(entry, tuple) else entry
        if getattr(callback, "__qualname__", "") == "shield.<locals>._outer_done_callback":
            for cell in callback.__closure__ or ():
                try:
                    found.append(cell.cell_contents)
                except ValueError:  # empty by now
                    continue
    return found


def _unique(found: list[Any]) -> list[Task[Any]]:
    return list({id(task): task for task in found if isinstance(task, Task) and not task.done()}.values())
