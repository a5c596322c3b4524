"""Who can reach a connection: which frames have a session or a connection of SQLAlchemy's that works over it."""

from __future__ import annotations

import gc
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session

from sqla_poolguard._awaits import context_of
from sqla_poolguard._callsite import is_internal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._awaits import Chain

__all__ = ["option_of", "reaches"]

DIRECTLY: Final = 0
"""Only the local variables themselves are looked at."""
DEEP: Final = 3
"""Likewise what these hold: `self.session`, or `request.scope["state"]["session"]`."""

_MOST_OBJECTS: Final = 400
_MOST_PARTS: Final = 100
_PLAIN: Final = {list.__iter__, tuple.__iter__, set.__iter__, frozenset.__iter__, deque.__iter__}


def reaches(chain: Chain, fairy: object, depth: int = DIRECTLY) -> bool:
    """Tell whether a frame of a chain has a session or connection over a connection that is checked out, or the driver's own."""
    if _connection(chain, fairy, depth) is not None:
        return True
    driver = getattr(getattr(fairy, "dbapi_connection", None), "driver_connection", None)
    return driver is not None and any(value is driver for hop in chain.hops for value in hop.values())


def option_of(chain: Chain | None, fairy: object, option: str) -> Any:
    """
    Read an execution option of SQLAlchemy's connection over one that is checked out; None if it is not set, or not found.

    Args:
        chain: the holder's; if it does not tell, the garbage collector is asked, which takes a while.
        fairy: the pool's connection, as SQLAlchemy holds it.
        option: name of the option.
    """
    connection = (_connection(chain, fairy, DEEP) if chain is not None else None) or _referrer(fairy)
    return connection.get_execution_options().get(option) if connection is not None else None


def _connection(chain: Chain, fairy: object, depth: int) -> Connection | None:
    """Find SQLAlchemy's connection over one that is checked out, in the variables of a chain's frames, the innermost first."""
    if fairy is None:
        return None
    context = context_of(chain) if depth else None
    for value in list(context.values())[:_MOST_PARTS] if context is not None else ():
        for connection in _connections(value):
            if getattr(connection, "_dbapi_connection", None) is fairy:
                return connection
    for hop in reversed(chain.hops):
        if is_internal(hop.code.co_filename):
            continue
        for value in _within(hop.values(), depth):
            for connection in _connections(value):
                if getattr(connection, "_dbapi_connection", None) is fairy:
                    return connection
    return None


def _referrer(fairy: object) -> Connection | None:
    """Find SQLAlchemy's connection over one that is checked out, wherever it is kept."""
    for holder in gc.get_referrers(fairy) if fairy is not None else ():
        if isinstance(holder, Connection):
            return holder
        if type(holder) is dict and holder.get("_dbapi_connection") is fairy:  # its attributes
            return next((each for each in gc.get_referrers(holder) if isinstance(each, Connection)), None)
    return None


def _within(values: list[Any], depth: int) -> Iterator[Any]:
    """Give some values, and what they hold, level by level; after so many, no more."""
    seen: set[int] = set()
    for level in range(depth + 1):
        inner: list[Any] = []
        for value in values:
            if len(seen) >= _MOST_OBJECTS:
                return
            if id(value) in seen:
                continue
            seen.add(id(value))
            yield value
            if level < depth:
                inner += _held_by(value)
        values = inner


def _held_by(value: Any) -> list[Any]:
    """Give what an object holds, its first few things; it is asked nothing that could run its own code."""
    kind = type(value)
    if kind is dict:
        return list(islice(value.values(), _MOST_PARTS))
    if issubclass(kind, (list, tuple, set, frozenset, deque)):
        return list(islice(value, _MOST_PARTS)) if kind.__iter__ in _PLAIN else []
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except Exception:  # noqa: BLE001 - it has none, or hides it
        attributes = None
    found = list(islice(attributes.values(), _MOST_PARTS)) if type(attributes) is dict else []
    if getattr(kind, "__slots__", None) and kind.__module__ != "builtins":
        found += [held for held in gc.get_referents(value) if held is not kind and held is not attributes][:_MOST_PARTS]
    return found


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
