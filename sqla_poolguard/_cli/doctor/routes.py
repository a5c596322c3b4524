"""Walk through a FastAPI application: which routes send a response in pieces while a dependency holds a session. Calls nothing of its."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import typing
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from sqla_poolguard._cli.doctor.evidence import App, RouteAtRisk
from sqla_poolguard._cli.doctor.trouble import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["walk"]

_HELD: Final = (AsyncSession, AsyncConnection, Session)
_STREAMS: Final = frozenset({"StreamingResponse", "FileResponse", "EventSourceResponse"})
_ENDS: Final = frozenset({"commit", "rollback", "close", "release"})
"""What an endpoint calls to give its connection back before the stream begins."""


def walk(app: Any, source: str) -> App:
    """Look at every route of an application."""
    import fastapi  # noqa: PLC0415 - the application's

    routes = [route for route in _routes(app) if getattr(route, "dependant", None) is not None]
    found: dict[str, None] = {}
    at_risk = []
    for route in routes:
        holding = list(_holding(route.dependant, route.endpoint))
        for name, _ in holding:
            found.setdefault(name)
        held = [name for name, scope in holding if scope != "function"]
        kind = _streamed(route)
        if held and kind is not None and not _ends_it(route.endpoint):
            code = inspect.unwrap(_bare(route.endpoint)).__code__
            at_risk.append(
                RouteAtRisk(
                    path=f"{'/'.join(sorted(route.methods or ()))} {route.path}".strip(),
                    endpoint=getattr(route.endpoint, "__name__", "?"),
                    file=shown(code.co_filename),
                    line=code.co_firstlineno,
                    dependency=held[0],
                    kind=kind,
                )
            )
    return App(
        source=source, fastapi=fastapi.__version__, routes=len(routes), session_dependencies=tuple(found), at_risk=tuple(at_risk)
    )


def _routes(app: Any) -> Iterator[Any]:
    """Give the routes, those of included routers as well."""
    from fastapi import routing  # noqa: PLC0415 - the application's

    contexts = getattr(routing, "iter_route_contexts", None)  # routers are included by reference since it is there
    routes = app.routes if contexts is None else contexts(app.routes)
    return (route for route in routes if getattr(route, "endpoint", None) is not None)


def _holding(dependant: Any, parent: Any) -> Iterator[tuple[str, str | None]]:
    """Give name and scope of the dependencies that yield a session, and those of theirs."""
    for inner in dependant.dependencies:
        call = _bare(inner.call)
        if _yields(call) and (_is_session(_yielded(call)) or _is_session(_hints(parent).get(inner.name))):
            yield getattr(call, "__name__", type(call).__name__), getattr(inner, "scope", None)
        yield from _holding(inner, call)


def _bare(call: Any) -> Any:
    while isinstance(call, functools.partial):
        call = call.func
    return call if inspect.isroutine(call) or inspect.isclass(call) else getattr(call, "__call__", call)  # noqa: B004 - the method itself


def _yields(call: Any) -> bool:
    plain = inspect.unwrap(call)
    return inspect.isasyncgenfunction(plain) or inspect.isgeneratorfunction(plain)


def _hints(call: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(_bare(call)))
    except Exception:  # noqa: BLE001 - annotations may be anything, and name what is not there at run time
        return {}


def _yielded(call: Any) -> Any:
    """Give what a generator is annotated to yield."""
    arguments = typing.get_args(_hints(call).get("return"))
    return arguments[0] if arguments else None


def _is_session(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, _HELD)


def _streamed(route: Any) -> str | None:
    """Tell what a route sends in pieces; None where it does not."""
    endpoint = _bare(route.endpoint)
    declared = getattr(route, "response_class", None)
    declared = getattr(declared, "value", declared)
    returned = _hints(endpoint).get("return")
    for kind in (declared, returned):
        if isinstance(kind, type) and any(base.__name__ in _STREAMS for base in kind.__mro__):
            return kind.__name__
    if _yields(endpoint):
        return "what it yields"
    called = _calls(endpoint)
    return next((name for name in sorted(called & _STREAMS)), None)


def _ends_it(endpoint: Any) -> bool:
    return bool(_calls(endpoint) & _ENDS)


@functools.cache
def _calls(endpoint: Any) -> frozenset[str]:
    """Give the last names of what a function calls itself; what functions within it call comes later, or never."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(_bare(endpoint)))))
    except (OSError, TypeError, SyntaxError):
        return frozenset()
    names: set[str] = set()
    pending: list[ast.AST] = list(getattr(tree.body[0], "body", []))
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            if name:
                names.add(name)
        pending.extend(ast.iter_child_nodes(node))
    return frozenset(names)
