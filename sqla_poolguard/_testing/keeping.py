"""Which fixture keeps a connection that a test checked out: one that outlives the test may, and the test is not to blame."""

from __future__ import annotations

import gc
import sys
from asyncio import AbstractEventLoop, Future
from functools import partial
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pytest

    from sqla_poolguard._testing.stays import Owner, Stay

__all__ = ["is_made_by", "keeper_of", "living_sessions", "place_of", "roots_of"]

_MOST_REACHED: Final = 1_000_000
"""Objects to look through, some seconds at most, and only where something is out."""
_CLOSED: Final = (ModuleType, CodeType, BuiltinFunctionType, FrameType, AbstractEventLoop, Future, type)
"""What is not gone through: everything leads to everything through it."""
_RUNNING: Final = (GeneratorType, AsyncGeneratorType, CoroutineType)
_FOREIGN: Final = frozenset({"_pytest", "pytest", "pluggy", "pytest_asyncio"})
"""Packages whose objects are not gone through: they lead to every test. anyio's runner leads to its loop."""


def keeper_of(stay: Stay, fixtures: Mapping[Any, Owner]) -> Owner | None:
    """
    Find the fixture that keeps a connection, be it by a session that has checked it out when a test first used it, or by a task.

    Args:
        stay: of the connection.
        fixtures: those that live, by their definition.
    """
    wanted = {id(kept) for kept in (stay.fairy, stay.holder) if kept is not None}
    if not wanted:
        return None
    maker = next((owner for owner in fixtures.values() if is_made_by(owner, stay.fairy)), None)
    if maker is not None:
        return maker
    return next(
        (owner for fixture, owner in fixtures.items() if _lead_to([*roots_of(fixture), *_attributes(owner)], wanted)), None
    )


def is_made_by(owner: Owner, fairy: object) -> bool:
    """Tell whether a fixture has made the session that has a connection; who has used it in vain is not to blame then."""
    return any(_has(session, fairy) for session in owner.sessions)


def living_sessions() -> dict[Any, Any]:
    """Give SQLAlchemy's sessions that live, by their keys; none where nobody has imported its ORM, or it does not tell."""
    known = getattr(sys.modules.get("sqlalchemy.orm.session"), "_sessions", None)
    while known is not None:
        try:
            return dict(known)
        except RuntimeError:  # another thread, or the garbage collector, has changed it meanwhile
            continue
    return {}


def _has(session: Any, fairy: object) -> bool:
    """Tell whether a session has a connection."""
    transaction = getattr(session, "_transaction", None)
    while transaction is not None and fairy is not None:
        for value in tuple(getattr(transaction, "_connections", {}).values()):
            if getattr(value[0], "_dbapi_connection", None) is fairy:
                return True
        transaction = getattr(transaction, "parent", None)
    return False


def place_of(fixture: pytest.FixtureDef[Any], asked_by: Any) -> Any:
    """
    Give the class or the module in which a fixture may put something: `setup_class`, `setup_module`, `request.cls.session = …`.

    Args:
        fixture: the fixture.
        asked_by: its request, or a test that uses it.
    """
    name = fixture.argname
    if fixture.scope == "class" and not name.endswith("_scoped_runner"):  # pytest-asyncio's is there for every test
        return getattr(asked_by, "cls", None)
    return getattr(asked_by, "module", None) if name.startswith("_xunit_setup_module") else None


def _attributes(owner: Owner) -> list[Any]:
    return list(vars(owner.place).values()) if owner.place is not None else []


def roots_of(fixture: pytest.FixtureDef[Any]) -> list[Any]:
    """Give what a fixture has: its value, and the generators that wait for its end."""
    cached = fixture.cached_result
    found = [cached[0]] if cached is not None else []
    for finalizer in list(getattr(fixture, "_finalizers", ())):
        held: Iterable[Any] = finalizer.args if isinstance(finalizer, partial) else _closure_of(finalizer)
        found += [value for value in held if isinstance(value, _RUNNING)]
    return found


def _closure_of(function: Any) -> Iterable[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty by now
            continue


def _lead_to(roots: list[Any], wanted: set[int]) -> bool:
    """Tell whether objects lead to one of others, by their ids, however indirectly; what is too much to look through may: its fixture's end will tell."""
    seen: set[int] = set()
    level = roots
    while level:
        new = {id(value): value for value in level if gc.is_tracked(value) and id(value) not in seen}
        if not wanted.isdisjoint(new):
            return True
        seen.update(new)
        if len(seen) > _MOST_REACHED:
            return True
        level = []
        for value in new.values():
            if type(value) is FunctionType:  # not its module
                level += [value.__closure__, value.__defaults__, value.__kwdefaults__, value.__dict__]
            elif type(value) is CellType or not (isinstance(value, _CLOSED) or _is_foreign(value)):
                level += gc.get_referents(value)
            elif type(value).__name__ == "TaskGroup":  # anyio's
                level += getattr(value, "_tasks", ())
    return False


def _is_foreign(value: Any) -> bool:
    module = str(type(value).__module__)
    return module.partition(".")[0] in _FOREIGN or module.startswith("anyio._backends")
