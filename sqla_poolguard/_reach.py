"""Who can reach a connection: which frames have a session or a connection of SQLAlchemy's that works over it."""

from __future__ import annotations

import gc
from collections import deque
from gc import is_tracked
from itertools import islice
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session

from sqla_poolguard._awaits import chain_of, context_of
from sqla_poolguard._callsite import is_internal

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Iterable, Iterator

    from sqla_poolguard._awaits import Chain

__all__ = ["connection_of", "connections_of", "is_within_reach", "keepers", "option_of", "reaches", "variables_of"]

DIRECTLY: Final = 0
"""Only the local variables themselves are looked at."""
DEEP: Final = 3
"""Likewise what these hold: `self.session`, or `request.scope["state"]["session"]`."""

_MOST_OBJECTS: Final = 3000
_MOST_PARTS: Final = 100
_MOST_REACHED: Final = 100_000
_CLOSED: Final = frozenset({ModuleType, CodeType, BuiltinFunctionType, FunctionType})
"""Types of what belongs to the program, not to a task; classes too."""
_RUNNING: Final = (CoroutineType, GeneratorType, AsyncGeneratorType)
_PLAIN: Final = {list.__iter__, tuple.__iter__, set.__iter__, frozenset.__iter__, deque.__iter__}


def reaches(chain: Chain, fairy: object, depth: int = DIRECTLY) -> bool:
    """Tell whether a frame of a chain has a session or connection over a connection that is checked out, or the driver's own."""
    if connection_of(chain, fairy, depth) is not None:
        return True
    driver = getattr(getattr(fairy, "dbapi_connection", None), "driver_connection", None)
    return driver is not None and any(value is driver for value in variables_of(chain))


def variables_of(chain: Chain) -> Iterator[Any]:
    """Give what the variables of a chain's frames hold."""
    return (value for hop in chain.hops for value in hop.values())


def option_of(connection: Connection, option: str) -> Any:
    """Read an execution option of SQLAlchemy's connection; None if it is not set."""
    return connection.get_execution_options().get(option)


def is_within_reach(loop: AbstractEventLoop, tasks: Iterable[Any], fairy: object) -> bool:
    """
    Tell whether anything that a loop still has to run can get at a connection that is checked out, however indirectly.

    What the tasks, timers and callbacks hold is followed to the end: variables, closures, generators, attributes, containers.
    Modules and classes are not: what only these hold, no running code has in its hands.

    Returns:
        True also if it could not be ruled out, since there is too much to look through.
    """
    level: list[Any] = [loop]
    for task in tasks:
        level.append(task)
        for hop in chain_of(task).hops:
            level += hop.values() if hop.owner is not None else hop.locals()
    seen: set[int] = set()
    while level:
        # what the collector does not track leads to nothing that it does
        new = {id(value): value for value in level if is_tracked(value) and id(value) not in seen}
        seen.update(new)
        if id(fairy) in new or len(seen) > _MOST_REACHED:
            return True
        functions = [value for value in new.values() if type(value) is FunctionType]
        level = gc.get_referents(*(value for value in new.values() if type(value) not in _CLOSED and not isinstance(value, type)))
        for function in functions:  # not its module
            level += [function.__closure__, function.__defaults__, function.__kwdefaults__, function.__dict__]
    return False


def connections_of(chain: Chain, depth: int) -> Iterator[Connection]:
    """Give SQLAlchemy's connections that the variables of a chain's frames lead to: the nearest first, the innermost frame's first."""
    context = context_of(chain) if depth else None
    values = _some(context.values()) if context is not None else []
    for hop in reversed(chain.hops):
        if not is_internal(hop.code.co_filename):
            values += hop.values()
    for value in _within(values, depth):
        yield from _connections(value)


def connection_of(chain: Chain, fairy: object, depth: int) -> Connection | None:
    """Find SQLAlchemy's connection over one that is checked out, in the variables of a chain's frames."""
    if fairy is None:
        return None
    return next((each for each in connections_of(chain, depth) if getattr(each, "_dbapi_connection", None) is fairy), None)


def keepers(fairies: list[Any]) -> dict[int, Connection]:
    """
    Find SQLAlchemy's connections over some that are checked out, wherever they are kept.

    The garbage collector is asked, which goes through all objects that there are: a tenth of a second for three millions.

    Returns:
        By the `id` of the pool's connection.
    """
    found: dict[int, Connection] = {}
    attributes: list[dict[str, Any]] = []
    wanted = {id(fairy) for fairy in fairies}
    for holder in gc.get_referrers(*fairies):
        if isinstance(holder, Connection):
            found[id(holder._dbapi_connection)] = holder
        elif type(holder) is dict and id(holder.get("_dbapi_connection")) in wanted:
            attributes.append(holder)
    if attributes and len(found) < len(wanted):
        for owner in gc.get_referrers(*attributes):
            if isinstance(owner, Connection):
                found[id(owner._dbapi_connection)] = owner
    return found


def _within(values: list[Any], depth: int) -> Iterator[Any]:
    """Give some values, and what they hold, level by level; after so many, no more."""
    seen: set[int] = set()
    for level in range(depth + 1):
        inner: list[Any] = []
        values = list(values)
        for value in values:
            if len(seen) >= _MOST_OBJECTS:
                return
            if id(value) in seen:
                continue
            seen.add(id(value))
            yield value
            if type(value) in _RUNNING:  # its variables are in the hands of who steps it
                values += gc.get_referents(value)[:_MOST_PARTS]
            elif level < depth:
                inner += _held_by(value)
        values = inner


def _held_by(value: Any) -> list[Any]:
    """Give what an object holds, its first few things; it is asked nothing that could run its own code."""
    kind = type(value)
    if kind is dict:
        return _some(value.values())
    if issubclass(kind, (list, tuple, set, frozenset, deque)):
        return _some(value) if kind.__iter__ in _PLAIN else []
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except Exception:  # noqa: BLE001 - it has none, or hides it
        attributes = None
    found = _some(attributes.values()) if type(attributes) is dict else []
    if getattr(kind, "__slots__", None) and kind.__module__ != "builtins":
        found += [held for held in gc.get_referents(value) if held is not kind and held is not attributes][:_MOST_PARTS]
    return found


def _some(values: Iterable[Any]) -> list[Any]:
    """Give the first few things in a container; none if another thread, or the garbage collector, has just changed it."""
    try:
        return list(islice(values, _MOST_PARTS))
    except RuntimeError:
        return []


def _connections(value: Any) -> list[Connection]:
    """Give SQLAlchemy's connections that a session, or a connection of whatever kind, works over."""
    kind = type(value)
    if not issubclass(kind, (AsyncSession, AsyncConnection, Session, Connection, async_scoped_session)):
        return []
    try:
        if issubclass(kind, async_scoped_session):
            value = value.registry() if value.registry.has() else None
        if isinstance(value, AsyncConnection):
            value = value.sync_connection
        elif isinstance(value, AsyncSession):
            value = value.sync_session
        if isinstance(value, Connection):
            return [value]
        return _of_session(value) if isinstance(value, Session) else []
    except Exception:  # noqa: BLE001 - somebody's own registry, or a private part that has changed: nothing is known then
        return []


def _of_session(session: Session) -> list[Connection]:
    found: list[Connection] = []
    transaction: Any = session._transaction
    while transaction is not None:
        found += [entry[0] for entry in list(transaction._connections.values())]
        transaction = transaction._parent
    return found
