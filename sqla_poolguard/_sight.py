"""What the holder of an idle connection is doing: looked at from outside, in its own event loop."""

from __future__ import annotations

import asyncio
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqla_poolguard import _reach
from sqla_poolguard._awaits import chain_of, context_of
from sqla_poolguard._callsite import is_application, is_internal, site_of
from sqla_poolguard._facts import SECOND, HolderState
from sqla_poolguard._holds import OPTION, declarations, declared_in
from sqla_poolguard._joins import delegates, is_closing, joined, kin
from sqla_poolguard._otel import trace_id_in
from sqla_poolguard._stillness import Stillness

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from sqla_poolguard._awaits import Chain
    from sqla_poolguard._callsite import Place
    from sqla_poolguard._facts import Site
    from sqla_poolguard._ledger import Lease

__all__ = ["Sight", "Surroundings", "attribute", "declared", "is_helper", "option_of", "shows", "trace_of"]

_GENERATIONS: Final = 4
_TASKS_SHOWN: Final = 3


class Sight(NamedTuple):
    """What is seen of a holder."""

    state: HolderState
    current: Site | None = None
    awaiting: str | None = None
    task: str | None = None
    details: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    still: Stillness | None = None
    """While this lasts, the sight is true."""
    yields: bool = False
    """Whether it awaits nothing, and only lets others run: how long that takes is not for it to say."""
    declared: str | None = None
    """The reason for which it is in the scope of an `allow_hold`."""


class Surroundings:
    """What must be known of the pool to understand what a holder waits for. Queues may be long: who stands in them is found when it is asked."""

    def __init__(
        self,
        holding: dict[int, list[tuple[float, Place | None]]],
        find_waiting: Callable[[], dict[int, Place | None]],
        find_others: Callable[[], dict[int, str]],
    ) -> None:
        self.holding = holding
        """The tasks that hold connections of this pool (by id): since when, and the lines that asked."""
        self._find_waiting, self._find_others = find_waiting, find_others

    @cached_property
    def waiting(self) -> dict[int, Place | None]:
        """The tasks that queue for this pool (by id), and the lines that ask."""
        return self._find_waiting()

    @cached_property
    def others(self) -> dict[int, str]:
        """The tasks that queue for other pools (by id), and their names."""
        return self._find_others()


def attribute(task: Task[Any], lease: Lease, driver: Any, fairy: object, around: Surroundings) -> Sight:
    """
    See what a task does that holds an idle connection.

    Args:
        task: the task; not done, and not running.
        lease: its lease of the connection.
        driver: the driver's connection.
        fairy: the pool's connection, as SQLAlchemy holds it.
        around: who else waits and holds.
    """
    home = _home(lease.place)
    chain = chain_of(task)
    if chain.is_ready:
        return Sight(HolderState.RUNNING, chain.site(home), None, task.get_name())
    if chain.is_within(driver) or is_closing(chain):
        return Sight(HolderState.IN_DATABASE, chain.site(home), "the database", task.get_name())
    nested = _nested(chain, lease.granted_at or 0.0, around)
    if nested is not None:
        return Sight(HolderState.NESTED, nested[0] or chain.site(home), nested[1], task.get_name())
    if any(chain_of(other).is_ready for other in kin(chain)):  # what it waits for is under way
        return Sight(HolderState.RUNNING, chain.site(home), None, task.get_name())
    user = _user(chain, fairy, _GENERATIONS) or _delegate(chain, home) or chain
    others = joined(user)
    awaiting = user.awaited(home)
    if id(user.task) in around.others:
        awaiting = f"a connection of pool {around.others[id(user.task)]!r}"
    return Sight(
        HolderState.AWAITING,
        user.site(home),
        awaiting,
        user.task.get_name(),
        tuple(_described(other, home) for other in others[:_TASKS_SHOWN]),
        chain.frameworks(lease.place[0] if lease.place else None),
        Stillness(chain, _GENERATIONS) if chain.future is not None else None,
        chain.future is None,
        declared_in(context_of(chain)) or declared_in(context_of(user)),
    )


def declared(task: Task[Any] | None, fairy: object, loop: AbstractEventLoop | None) -> str | None:
    """
    Tell for what reason a hold is in the scope of an `allow_hold`.

    Args:
        task: the holder; if it has finished, any task counts that can reach the connection.
        fairy: the pool's connection, as SQLAlchemy holds it.
        loop: the event loop of the connection.
    """
    if task is not None:
        return declared_in(context_of(chain_of(task)))
    for other in asyncio.all_tasks(loop) if loop is not None and declarations() else ():
        chain = chain_of(other)
        reason = declared_in(context_of(chain))
        if reason is not None and _reach.reaches(chain, fairy, _reach.DEEP):
            return reason
    return None


def option_of(task: Task[Any] | None, fairy: object, keeper: Connection | None) -> str | None:
    """
    Tell for what reason a hold is declared by an execution option.

    Args:
        task: the holder.
        fairy: the pool's connection, as SQLAlchemy holds it.
        keeper: SQLAlchemy's connection, if it is known.
    """
    if keeper is None and task is not None:
        keeper = _reach.connection_of(chain_of(task), fairy, _reach.DEEP)
    option = _reach.option_of(keeper, OPTION) if keeper is not None else None
    return str(option) if option else None


def shows(task: Task[Any] | None, fairy: object) -> bool:
    """Tell whether a holder's variables lead to SQLAlchemy's connection."""
    return task is not None and _reach.connection_of(chain_of(task), fairy, _reach.DEEP) is not None


def joined_deeply(chain: Chain, depth: int = _GENERATIONS) -> Iterator[Task[Any]]:
    """Give the tasks that a chain waits for, and those that these wait for."""
    for task in joined(chain):
        yield task
        if depth > 1:
            yield from joined_deeply(chain_of(task), depth - 1)


def _nested(chain: Chain, since: float, around: Surroundings) -> tuple[Site | None, str] | None:
    """Tell whether a holder, or a task it waits for, wants or has a second connection of the pool: where, and how."""
    for task in (chain.task, *joined_deeply(chain)):
        if id(task) in around.waiting:
            return site_of(around.waiting[id(task)]), SECOND
        for granted_at, place in around.holding.get(id(task), ()):
            if granted_at > since:
                return site_of(place), "work on a second connection of this pool"
    return None


def _user(chain: Chain, fairy: object, depth: int) -> Chain | None:
    """Find the task that uses the connection, among those that its holder has begun or waits for."""
    for task in kin(chain):
        below = chain_of(task)
        if below.is_ready:
            continue
        user = _user(below, fairy, depth - 1) if depth > 1 else None
        if user is None and _reach.reaches(below, fairy, _reach.DEEP):
            user = below
        if user is not None:
            return user
    return None


def _delegate(chain: Chain, home: str | None) -> Chain | None:
    """Find the task that a framework runs for a holder, and that is in the application's code: the body of a response, say."""
    for task in delegates(chain, home):
        below = chain_of(task)
        if not below.is_ready and below.line(home) is not None:
            return below
    return None


def _described(task: Task[Any], home: str | None) -> str:
    chain = chain_of(task)
    return f"task {task.get_name()!r} awaits {chain.awaited(home)} at {chain.site(home)}"


def trace_of(task: Task[Any]) -> str | None:
    """Tell in which trace a task runs."""
    context = context_of(chain_of(task))
    return trace_id_in(context) if context is not None else None


def _home(place: Place | None) -> str | None:
    """Give the folder of the code that checked out, for an application that is installed like a library."""
    if not place or is_application(place[0].co_filename):
        return None
    file: str = place[0].co_filename
    roots, installed, path = file.rpartition(f"-packages{os.sep}")
    return roots + installed + path.partition(os.sep)[0] if installed else os.path.dirname(file) + os.sep


def is_helper(place: Place | None) -> bool:
    """Tell whether a connection was checked out by a task that runs nothing but SQLAlchemy, made by `wait_for`, `gather` or `shield`."""
    return place is None or is_internal(place[0].co_filename)
