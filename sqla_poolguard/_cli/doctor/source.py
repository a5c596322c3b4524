"""Read the source of a function, and tell what a name in it stands for. It calls nothing, and asks no property."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import textwrap
import typing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Function = ast.FunctionDef | ast.AsyncFunctionDef

__all__ = ["bare", "bound_in", "hints", "name_of", "own_nodes", "parameters", "resolved", "tree_of", "yields"]

_DEEPER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def bare(call: Any) -> Any:
    """Give the function that is called in the end."""
    while isinstance(call, functools.partial):
        call = call.func
    return call if inspect.isroutine(call) or inspect.isclass(call) else getattr(call, "__call__", call)  # noqa: B004 - the method itself


def yields(call: Any) -> bool:
    """Tell whether it is a generator."""
    plain = inspect.unwrap(bare(call))
    return inspect.isasyncgenfunction(plain) or inspect.isgeneratorfunction(plain)


def hints(call: Any) -> dict[str, Any]:
    """Give its annotations, as far as they can be read."""
    try:
        return typing.get_type_hints(inspect.unwrap(bare(call)))
    except Exception:  # noqa: BLE001 - annotations may be anything, and name what is not there at run time
        return {}


@functools.cache
def tree_of(call: Any) -> Function | None:
    """Give its source as a tree; None where there is none."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(bare(call)))))
    except (OSError, TypeError, SyntaxError):
        return None
    found = tree.body[0] if tree.body else None
    return found if isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef)) else None


def parameters(tree: Function) -> list[str]:
    """Give the names of its parameters, those by position first."""
    return [one.arg for one in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs)]


def own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Give what is in it, but not what is in functions within it: that is run later, or never."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, _DEEPER):
            yield from own_nodes(node)


def bound_in(tree: Function) -> dict[str, ast.expr]:
    """Give what each name in a function was assigned last."""
    bound: dict[str, ast.expr] = {}
    for node in own_nodes(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound.update({one.id: node.value for one in targets if isinstance(one, ast.Name)})
    return bound


def name_of(node: ast.expr) -> str | None:
    """Give the last part of a dotted name."""
    return getattr(node, "attr", None) or getattr(node, "id", None)


def resolved(call: Any, node: ast.expr) -> Any:
    """Give what a dotted name in a function stands for; None where that is not known before it is run."""
    if isinstance(node, ast.Attribute):
        owner = resolved(call, node.value)
        found = None if owner is None else inspect.getattr_static(owner, node.attr, None)
        return None if isinstance(found, (property, functools.cached_property)) else getattr(found, "__func__", found)
    plain = inspect.unwrap(bare(call))
    function = getattr(plain, "__func__", plain)
    code = getattr(function, "__code__", None)
    if not isinstance(node, ast.Name) or code is None:
        return None
    if node.id in code.co_varnames:
        owner = getattr(plain, "__self__", None)
        return owner if node.id == code.co_varnames[0] else None
    if node.id in code.co_freevars:
        try:
            return function.__closure__[code.co_freevars.index(node.id)].cell_contents
        except ValueError:  # not yet
            return None
    return function.__globals__.get(node.id, getattr(builtins, node.id, None))
