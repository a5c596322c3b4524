"""Which dependencies of a FastAPI route yield a session or a connection: by what is annotated, else by what their source yields."""

from __future__ import annotations

import ast
import inspect
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_poolguard._cli.doctor.source import bare, bound_in, hints, own_nodes, resolved, tree_of, yields

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Held", "holding"]

_SESSIONS: Final = (AsyncSession, Session)
_CONNECTIONS: Final = (AsyncConnection, Connection)
_MAKERS: Final = (async_sessionmaker, sessionmaker, async_scoped_session, scoped_session)
_OPEN: Final = frozenset({"begin", "connect"})
"""What opens something: `engine.connect()`, `Sessions.begin()`."""
_DEEP: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A dependency that yields a session or a connection."""

    call: Any
    """The function."""
    scope: str | None
    """FastAPI's: "function" ends before the response is sent."""
    connection: bool
    """Whether it is a connection, which a commit does not give back."""

    @property
    def name(self) -> str:
        """What it is called."""
        return getattr(self.call, "__name__", type(self.call).__name__)


def holding(dependant: Any, parent: Any) -> Iterator[Held]:
    """
    Give the dependencies that yield a session, and those of theirs.

    Args:
        dependant: FastAPI's, of `parent`.
        parent: the endpoint, or a dependency.
    """
    for inner in dependant.dependencies:
        call = bare(inner.call)
        if yields(call):
            kinds = (_annotated(call), hints(parent).get(inner.name), _yielded(call, _DEEP))
            kind = next((one for one in kinds if _is(one, _SESSIONS + _CONNECTIONS)), None)
            if kind is not None:
                yield Held(call=call, scope=getattr(inner, "scope", None), connection=_is(kind, _CONNECTIONS))
        yield from holding(inner, call)


def _is(kind: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(kind, type) and issubclass(kind, kinds)


def _annotated(call: Any) -> Any:
    """Give what a generator is annotated to yield."""
    arguments = typing.get_args(hints(call).get("return"))
    return arguments[0] if arguments else None


def _yielded(call: Any, deep: int) -> Any:
    """Give the class of what a generator's source yields: a name that it has bound to something that is known, or that itself."""
    tree = tree_of(call)
    if tree is None or not deep:
        return None
    bound, given = bound_in(tree), []
    for node in own_nodes(tree):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            bound[node.optional_vars.id] = node.context_expr
        elif isinstance(node, ast.Yield) and node.value is not None:
            given.append(node.value)
    kinds = (_made(call, bound.get(one.id, one) if isinstance(one, ast.Name) else one, deep) for one in given)
    return next((kind for kind in kinds if kind is not None), None)


def _made(call: Any, node: ast.expr, deep: int) -> Any:
    """Give the class of what a call in a function gives, or what it gives on entering."""
    while isinstance(node, ast.Await):
        node = node.value
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Attribute) and node.func.attr in _OPEN:
        owner = resolved(call, node.func.value)
        opened = _of_maker(owner) or (AsyncConnection if isinstance(owner, AsyncEngine) else None)
        return opened or (Connection if isinstance(owner, Engine) else None)
    made = resolved(call, node.func)
    if not inspect.isfunction(made):
        return made if _is(made, _SESSIONS + _CONNECTIONS) else _of_maker(made)
    if yields(made):  # @asynccontextmanager
        annotated = _annotated(made)
        return annotated if _is(annotated, _SESSIONS + _CONNECTIONS) else _yielded(made, deep - 1)
    return hints(made).get("return")


def _of_maker(maker: Any) -> Any:
    """Give the class of what a sessionmaker makes; None for what is none."""
    if not isinstance(maker, _MAKERS):
        return None
    factory = getattr(maker, "session_factory", maker)
    kind = getattr(factory, "class_", None)
    return kind if _is(kind, _SESSIONS) else Session
