"""
Whether an endpoint gives a session back before its stream begins: its source is walked from the top, branch by branch.

It sees calls on the session itself (`session.commit()`), on what was made of it by another dependency (`unit.commit()`), `release(session)`, blocks
that end it (`async with session.begin():`), and the same in a function that the session is given to. It cannot see what an object does that
the endpoint made of the session, nor attributes that load when they are read. Where branches differ, it believes the one that gives back.
"""

from __future__ import annotations

import ast
import enum
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._cli.doctor.source import bound_in, name_of, own_nodes, parameters, resolved, tree_of, yields

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Names", "gives_back"]

_DEEP: Final = 2
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS: Final = frozenset({"begin"})
"""What gives a session back at the end of its block."""
_QUIET: Final = frozenset(
    {"add", "add_all", "expire", "expire_all", "expunge", "expunge_all", "in_nested_transaction", "in_transaction", "is_modified"}
)
"""Methods that ask the server nothing."""
_LATER: Final = frozenset({"add_task"})
"""What is run when the response has been sent."""


class _State(enum.IntEnum):
    """What has become of the session; where branches meet, the greater one stands."""

    HELD = 0
    GIVEN_BACK = 1
    HELD_AGAIN = 2


@dataclass(frozen=True, slots=True)
class Names:
    """What the session is called in a function."""

    own: frozenset[str]
    """Its own names."""
    through: frozenset[str] = frozenset()
    """Names of what another dependency has made of it."""
    connection: bool = False
    """Whether it is a connection, which only `close()` gives back."""


def gives_back(call: Any, names: Names, makers: Iterable[ast.AST]) -> bool:
    """
    Tell whether a function gives a session back before it returns a stream.

    Args:
        call: the function.
        names: what the session is called.
        makers: the nodes of its tree that make one; without any, whatever it returns is a stream.
    """
    tree = tree_of(call)
    if tree is None:
        return False
    walk = _Walk(call, names, _DEEP)
    streams = set(makers)
    if streams:
        bound = {name for name, value in bound_in(tree).items() if streams & set(ast.walk(value))}
        walk.matters = lambda node: any(
            one in streams or (isinstance(one, ast.Name) and one.id in bound) for one in ast.walk(node)
        )
    walk.function(tree)
    return bool(walk.ends) and all(state is _State.GIVEN_BACK for state in walk.ends)


@dataclass
class _Walk:
    """One walk through a function."""

    call: Any
    names: Names
    deep: int
    ends: list[_State] = field(default_factory=list)
    """What had become of the session wherever a stream could begin."""
    matters: Any = None
    """Tells whether a return is of a stream; None: every one is."""

    def __post_init__(self) -> None:
        self._own, self._closing, self._asking = set(self.names.own), 0, set[str]()
        self._enders = {"close"} if self.names.connection else {"close", "commit", "rollback"}

    def function(self, tree: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for node in own_nodes(tree):
            if isinstance(node, _DEFINITIONS) and self._asks(node):
                self._asking.add(node.name)
        end = self._block(tree.body, _State.HELD)
        if end is not None and self.matters is None and not yields(self.call):
            self.ends.append(end)

    def _asks(self, inner: ast.AST) -> bool:
        """Tell whether a function within this one uses the session, and does not give it back."""
        calls = [self._called(node, _State.GIVEN_BACK) for node in ast.walk(inner) if isinstance(node, ast.Call)]
        gives = any(self._gives(node) for node in ast.walk(inner) if isinstance(node, ast.Call))
        return _State.HELD_AGAIN in calls and not gives

    def _block(self, statements: list[ast.stmt], state: _State | None) -> _State | None:
        """Give what has become of the session after some statements; None if nothing comes after them."""
        for statement in statements:
            if state is None:
                break
            state = self._statement(statement, state)
        return state

    def _statement(self, node: ast.stmt, state: _State) -> _State | None:
        after: _State | None = state
        match node:
            case ast.Return():
                self._return(node, self._expression(node.value, state))
                after = None
            case ast.Raise():
                after = None
            case ast.If():
                state = self._expression(node.test, state)
                after = _meet(self._block(node.body, state), self._block(node.orelse, state))
            case ast.For() | ast.AsyncFor() | ast.While():
                state = self._expression(node.test if isinstance(node, ast.While) else node.iter, state)
                after = self._block(node.orelse, _meet(state, self._block(node.body, state)))
            case ast.With() | ast.AsyncWith():
                after = self._with(node, state)
            case ast.Try() | ast.TryStar():
                after = self._try(node, state)
            case ast.Match():
                state = self._expression(node.subject, state)
                after = _meet(state, *(self._block(one.body, state) for one in node.cases))
            case _:
                after = self._expression(node, state)
        if isinstance(node, ast.Assign) and self._is_session(node.value):
            self._own.update(target.id for target in node.targets if isinstance(target, ast.Name))
        return after

    def _return(self, node: ast.Return, state: _State) -> None:
        if self.matters is None or (node.value is not None and self.matters(node.value)):
            self.ends.append(_State.GIVEN_BACK if self._closing and state is not _State.HELD_AGAIN else state)

    def _with(self, node: ast.With | ast.AsyncWith, state: _State) -> _State | None:
        closing = any(self._closes(item.context_expr) for item in node.items)
        for item in node.items:
            state = self._expression(item.context_expr, state)
        self._closing += closing
        after = self._block(node.body, state)
        self._closing -= closing
        return _State.GIVEN_BACK if closing and after is not None else after

    def _try(self, node: ast.Try | ast.TryStar, state: _State) -> _State | None:
        closing = any(isinstance(one, ast.Call) and self._gives(one) for last in node.finalbody for one in ast.walk(last))
        self._closing += closing
        after = self._block(node.orelse, self._block(node.body, state))
        after = _meet(after, *(self._block(handler.body, state) for handler in node.handlers))
        self._closing -= closing
        return self._block(node.finalbody, after)

    def _closes(self, node: ast.expr) -> bool:
        """Tell whether a block gives the session back at its end: `async with session:`, `async with session.begin():`."""
        if isinstance(node, ast.Call) and not self.names.connection and name_of(node.func) in _BLOCKS:
            return isinstance(node.func, ast.Attribute) and self._is_session(node.func.value)
        return self._is_session(node)

    def _is_session(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in self._own

    def _expression(self, node: ast.AST | None, state: _State) -> _State:
        """Give what has become of the session after an expression: what is called within it comes first."""
        if node is None or isinstance(node, (*_DEFINITIONS, ast.Lambda, ast.ClassDef)):
            return state
        for inner in ast.iter_child_nodes(node):
            state = self._expression(inner, state)
        if isinstance(node, ast.Call):
            return self._called(node, state)
        if isinstance(node, ast.Name) and node.id in self._asking and state is _State.GIVEN_BACK:
            return _State.HELD_AGAIN
        if isinstance(node, (ast.Yield, ast.YieldFrom)) and self.matters is None:
            self.ends.append(state)
        return state

    def _called(self, node: ast.Call, state: _State) -> _State:
        if self._gives(node):
            return _State.GIVEN_BACK
        used = isinstance(node.func, ast.Attribute) and self._is_session(node.func.value) and node.func.attr not in _QUIET
        used = used or (name_of(node.func) not in _LATER and self._is_given(node) and not self._is_builtin(node))
        return _State.HELD_AGAIN if used and state is not _State.HELD else state

    def _is_given(self, node: ast.Call) -> bool:
        return any(map(self._is_session, [*node.args, *(one.value for one in node.keywords)]))

    def _is_builtin(self, node: ast.Call) -> bool:
        called = resolved(self.call, node.func)
        return inspect.isbuiltin(called) or getattr(called, "__module__", None) == "builtins"

    def _gives(self, node: ast.Call) -> bool:
        """Tell whether a call gives the session back."""
        name, owner = name_of(node.func), node.func
        while isinstance(owner, ast.Attribute):
            owner = owner.value
        if isinstance(node.func, ast.Attribute) and isinstance(owner, ast.Name):
            if owner.id in self._own and name in self._enders:
                return True
            if owner.id in self.names.through and name in {*self._enders, "release"}:
                return True
        return self._is_given(node) and (name == "release" or self._helped(node))

    def _helped(self, node: ast.Call) -> bool:
        """Tell whether a function that the session is given to gives it back."""
        helper = resolved(self.call, node.func)
        tree = tree_of(helper) if inspect.isfunction(helper) and self.deep else None
        if tree is None:
            return False
        by_position = dict(zip(parameters(tree), node.args, strict=False))
        by_name = {one.arg: one.value for one in node.keywords if one.arg}
        own = frozenset(name for name, value in {**by_position, **by_name}.items() if self._is_session(value))
        walk = _Walk(helper, Names(own, connection=self.names.connection), self.deep - 1)
        if yields(helper):  # what it does in between is not told
            return any(isinstance(one, ast.Call) and walk._gives(one) for one in own_nodes(tree))
        walk.function(tree)
        return bool(walk.ends) and all(state is _State.GIVEN_BACK for state in walk.ends)


def _meet(*states: _State | None) -> _State | None:
    return max((state for state in states if state is not None), default=None)
