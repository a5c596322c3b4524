"""Proves that the holders of a pool wait for that very pool: then nobody can go on, and somebody must be told so."""

from __future__ import annotations

import asyncio
import math
from asyncio import Future
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard import _probe, _reach
from sqla_poolguard._awaits import chain_of
from sqla_poolguard._callsite import site_of
from sqla_poolguard._joins import joined
from sqla_poolguard._waitgraph import WaitGraph

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Iterable

    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._sampler import Sampler
    from sqla_poolguard._sight import Surroundings
    from sqla_poolguard._waiters import Waiter

__all__ = ["find_deadlock"]

_MOST_TASKS: Final = 5000


def find_deadlock(
    sampler: Sampler, samplers: Iterable[Sampler], loop: AbstractEventLoop, around: Surroundings
) -> tuple[Waiter, tuple[str, ...]] | None:
    """
    Look for a deadlock in an exhausted pool.

    Args:
        sampler: of the pool.
        samplers: of every pool that is used in the loop.
        loop: the running loop.
        around: who queues for the pool, and for the others.

    Returns:
        The waiter that is to be told, and the proof, line by line; None if somebody can go on.
    """
    out = sampler.slots.out()
    if any(_can_come_back(record) for record in out):
        return None
    waiting = {*around.waiting, *around.others}
    if not all(_waits(record, waiting) for record in out):
        return None
    graph, known = _graph(samplers)
    if not graph.stuck(sampler):
        return None
    fairies = [fairy for record in out if (fairy := record.fairy_ref() if record.fairy_ref is not None else None) is not None]
    tasks = asyncio.all_tasks(loop)
    first_timeout = loop.time() + sampler.seconds_to_first_timeout()
    bystanders = [task for task in tasks if id(task) not in known and not task.done()]
    if (
        len(tasks) > _MOST_TASKS
        or not all(_has(owner, record) for record in out if (owner := _owner(record)) is not None)
        or any(_deadline(task) < first_timeout for task in tasks if id(task) in known)
        or any(_may_help(task, fairies, known) for task in bystanders)
    ):
        return None
    holding = {id(task) for record in out if (task := _owner(record)) is not None}
    waiters = sampler.slots.waiters.live(_MOST_TASKS)
    if not waiters:
        return None
    own = [waiter for waiter in waiters if waiter.task is not None and id(waiter.task()) in holding] or waiters
    lines = tuple(
        f"checked out at {site_of(record.lease.place)}, {_doing(task, waiting)}"
        for record in out
        if (task := _owner(record)) is not None
    )
    return own[-1], lines


def _can_come_back(record: GuardedRecord) -> bool:
    """Tell at a glance whether a holder can go on: its query will be answered, or it is not known who it is."""
    if _owner(record) is None:
        return True
    look = _probe.look(_probe.driver_of(record.dbapi_connection))
    return look is not None and look.busy


def _waits(record: GuardedRecord, waiting: set[int]) -> bool:
    """Tell whether a holder waits for a pool, or for other tasks."""
    owner = _owner(record)
    return owner is not None and (id(owner) in waiting or bool(_children(owner)))


def _owner(record: GuardedRecord) -> Task[Any] | None:
    reference = record.lease.task
    task = reference() if reference is not None else None
    return task if task is not None and not task.done() else None


def _has(task: Task[Any], record: GuardedRecord) -> bool:
    """Tell whether a task can still reach its connection: one that it has lost comes back through the garbage collector."""
    fairy = record.fairy_ref() if record.fairy_ref is not None else None
    return fairy is not None and _reach.reaches(chain_of(task), fairy, _reach.DEEP)


def _graph(samplers: Iterable[Sampler]) -> tuple[WaitGraph, set[int]]:
    """Draw who waits for whom; return also the tasks (by id) that are known to wait."""
    queues: dict[Any, Any] = {}
    holders: dict[Any, list[list[Any]]] = {}
    tasks: list[Task[Any]] = []
    for sampler in samplers:
        out = sampler.slots.out()
        for task in sampler.waiting():
            queues[id(task)] = sampler
            tasks.append(task)
        if len(out) < sampler.slots.limit:
            continue
        rows: list[list[Any]] = []
        for record in out:
            owner = _owner(record)
            rows.append([] if owner is None or _can_come_back(record) else [id(owner)])
            if owner is not None:
                tasks.append(owner)
        holders[sampler] = rows
    joins: dict[Any, list[Any]] = {}
    seen: set[int] = set()
    while tasks:
        task = tasks.pop()
        if id(task) in seen or id(task) in queues:
            continue
        seen.add(id(task))
        children = _children(task)
        if children:
            joins[id(task)] = [id(child) for child in children]
            tasks += children
    return WaitGraph(joins=joins, queues=queues, holders=holders), {*queues, *joins}


def _children(task: Task[Any]) -> list[Task[Any]]:
    """Give the tasks that a task waits for; none if it can go on, or if something else can wake it too."""
    chain = chain_of(task)
    if chain.is_ready:
        return []
    others = [other for other in getattr(chain.future, "_children", ()) if isinstance(other, Future) and not other.done()]
    children = joined(chain)
    return children if all(isinstance(other, asyncio.Task) for other in others) else []


def _may_help(task: Task[Any], fairies: list[Any], known: set[int]) -> bool:
    """Tell whether a task that is not known to wait can give a connection back, or cancel a task that waits."""
    chain = chain_of(task)
    if any(_reach.reaches(chain, fairy, _reach.DEEP) for fairy in fairies):
        return True
    waited_for = {id(other) for other in joined(chain)}
    return any(
        isinstance(value, asyncio.Task) and id(value) in known and id(value) not in waited_for
        for hop in chain.hops
        for value in hop.values()
    )


def _deadline(task: Task[Any]) -> float:
    """
    Tell when a task will be cancelled by itself: inside `asyncio.timeout`, `wait_for`, or a scope of anyio's that has an end.

    Returns:
        On its loop's clock; infinity if it will not.
    """
    first = math.inf
    for hop in chain_of(task).hops:
        for value in hop.values():
            if isinstance(value, asyncio.TimerHandle) and not value.cancelled():
                first = min(first, value.when())
            elif isinstance(value, asyncio.Timeout):
                first = min(first, math.inf if (when := value.when()) is None else when)
            elif type(value).__name__ == "CancelScope":
                first = min(first, getattr(value, "deadline", math.inf))
    return first


def _doing(task: Task[Any], waiting: set[int]) -> str:
    chain = chain_of(task)
    what = "a connection" if id(task) in waiting else chain.awaited()
    return f"task {task.get_name()!r} awaits {what} at {chain.site()}"
