"""Walk through a FastAPI application: which routes send a response in pieces while a dependency holds a session. Calls nothing of its."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sqla_poolguard._cli.doctor import streams
from sqla_poolguard._cli.doctor.dependencies import holding
from sqla_poolguard._cli.doctor.evidence import App, RouteAtRisk
from sqla_poolguard._cli.doctor.given_back import Names, gives_back
from sqla_poolguard._cli.doctor.source import bare
from sqla_poolguard._cli.doctor.trouble import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._cli.doctor.dependencies import Held

__all__ = ["walk"]


def walk(app: Any, source: str) -> App:
    """Look at every route of an application."""
    import fastapi  # noqa: PLC0415 - the application's

    routes = [route for route in _routes(app) if getattr(route, "dependant", None) is not None]
    found: dict[str, None] = {}
    at_risk = []
    for route in routes:
        endpoint = bare(route.endpoint)
        held = list(holding(route.dependant, endpoint))
        for one in held:
            found.setdefault(one.name)
        kind = streams.declared(route) or next(iter(sorted(streams.makers(endpoint).values())), None)
        if kind is None:
            continue
        kept = next((one for one in held if one.scope != "function" and not _given_back(route, one)), None)
        if kept is not None:
            code = inspect.unwrap(endpoint).__code__
            at_risk.append(
                RouteAtRisk(
                    path=f"{'/'.join(sorted(route.methods or ()))} {route.path}".strip(),
                    endpoint=getattr(route.endpoint, "__name__", "?"),
                    file=shown(code.co_filename),
                    line=code.co_firstlineno,
                    dependency=kept.name,
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


def _given_back(route: Any, held: Held) -> bool:
    """Tell whether an endpoint gives back what a dependency holds, before its stream begins."""
    endpoint = bare(route.endpoint)
    own, through = set(), set()
    for inner in route.dependant.dependencies:
        if inner.name is None:
            continue
        if bare(inner.call) is held.call:
            own.add(inner.name)
        elif any(one.call is held.call for one in holding(inner, bare(inner.call))):
            through.add(inner.name)
    names = Names(frozenset(own), frozenset(through), connection=held.connection)
    return gives_back(endpoint, names, streams.makers(endpoint))
