"""Whether a route sends its response in pieces: by what it declares, what it is, and what it, or a helper of it, returns."""

from __future__ import annotations

import ast
import inspect
from typing import Any, Final

from sqla_poolguard._cli.doctor.source import bare, bound_in, hints, name_of, own_nodes, resolved, tree_of, yields

__all__ = ["declared", "makers"]

_STREAMS: Final = frozenset({"StreamingResponse", "FileResponse", "EventSourceResponse"})
_DEEP: Final = 3


def declared(route: Any) -> str | None:
    """Tell what a route says, or is, that makes whatever it returns a stream."""
    kind = getattr(route, "response_class", None)
    endpoint = bare(route.endpoint)
    for one in (getattr(kind, "value", kind), hints(endpoint).get("return")):
        if name := _stream(one):
            return name
    return "what it yields" if yields(endpoint) else None


def makers(call: Any, deep: int = _DEEP) -> dict[ast.Call, str]:
    """Give the calls in a function that make a stream, and which: of a class of streams, or of a helper whose outcome it returns."""
    tree = tree_of(call)
    if tree is None:
        return {}
    found = {node: _made(call, node) for node in own_nodes(tree) if isinstance(node, ast.Call)}
    bound = bound_in(tree) if deep else {}
    for node in own_nodes(tree) if deep else ():
        if not isinstance(node, ast.Return) or node.value is None:
            continue
        given = bound.get(node.value.id, node.value) if isinstance(node.value, ast.Name) else node.value
        while isinstance(given, ast.Await):
            given = given.value
        if isinstance(given, ast.Call) and not found.get(given):
            found[given] = _helped(call, given, deep)
    return {node: kind for node, kind in found.items() if kind}


def _made(call: Any, node: ast.Call) -> str:
    """Tell what stream a call makes by itself."""
    kind = resolved(call, node.func)
    name = name_of(node.func)
    return _stream(kind) or (name if kind is None and name in _STREAMS else "")  # None: imported in the function itself


def _helped(call: Any, node: ast.Call, deep: int) -> str:
    """Tell what stream the function makes that is called."""
    helper = resolved(call, node.func)
    if not inspect.isfunction(helper) or yields(helper):
        return ""
    return _stream(hints(helper).get("return")) or next(iter(makers(helper, deep - 1).values()), "")


def _stream(kind: Any) -> str:
    """Give the name of a class of streams; "" for what is none."""
    return kind.__name__ if isinstance(kind, type) and any(base.__name__ in _STREAMS for base in kind.__mro__) else ""
