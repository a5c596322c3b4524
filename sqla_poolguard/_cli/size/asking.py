"""Asks, where nobody has given options: the few figures without which nothing can be said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from sqla_poolguard._cli.size.quantities import SECONDS, Number, Whole
from sqla_poolguard._cli.surge import SURGE

if TYPE_CHECKING:
    from sqla_poolguard._cli.size.given import Given

__all__ = ["ask"]

_WHOLE = Whole(0)
_SOME = Whole(1)
_CONNECTIONS = Whole(1, 262_143)
_RATE = Number(0.001, 10_000_000)


def ask(given: Given) -> Given:
    """Ask, on standard error, so that what comes out can be kept; what was given otherwise stays."""

    def answer(text: str, kind: click.ParamType[Any], default: object) -> Any:
        return click.prompt(text, type=kind, default=default, err=True)

    click.echo("How large should the pool be? Eight questions; return takes what is in brackets.\n", err=True)
    answered = {
        "max_connections": answer("max_connections of the server", _CONNECTIONS, 100),
        "others": answer("connections that other services have, at their worst", _WHOLE, given.others or 0),
        "replicas": answer("replicas (pods, machines) at the most", _SOME, given.replicas),
        "workers": answer("processes of each (WEB_CONCURRENCY, --workers)", _SOME, given.workers),
        "surge": answer("replicas more during a rollout, as a number or as 25%", SURGE, given.surge),
        "rate": answer("checkouts per second of the whole service, at its busiest", _RATE, 100.0),
        "hold": answer("how long each connection is held, on average", SECONDS, "30ms"),
        "outside": answer("   of which awaiting something else than the database (HTTP, a stream)", SECONDS, "0ms"),
    }
    click.echo(err=True)
    return replace(given, **answered)
