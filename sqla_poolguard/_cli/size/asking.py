"""Asks, where nobody has given options: the few figures without which nothing can be said."""

from __future__ import annotations

from typing import Any

import click

from sqla_poolguard._cli.size.given import Given
from sqla_poolguard._cli.size.quantities import SECONDS, SURGE

__all__ = ["ask"]

_WHOLE = click.IntRange(min=0)
_SOME = click.IntRange(min=1)


def ask() -> Given:
    """Ask, on standard error, so that what comes out can be kept."""

    def answer(text: str, kind: click.ParamType[Any], default: object) -> Any:
        return click.prompt(text, type=kind, default=default, err=True)

    click.echo("How large should the pool be? Eight questions; return takes what is in brackets.\n", err=True)
    most = answer("max_connections of the server", _SOME, 100)
    others = answer("connections that other services have, at their worst", _WHOLE, 0)
    replicas = answer("replicas (pods, machines) at the most", _SOME, 1)
    workers = answer("processes of each (WEB_CONCURRENCY, --workers)", _SOME, 1)
    surge = answer("replicas more during a rollout, as a number or as 25%", SURGE, "0")
    rate = answer("checkouts per second of the whole service, at its busiest", click.FloatRange(min=0, min_open=True), 100.0)
    hold = answer("how long each connection is held, on average", SECONDS, "30ms")
    outside = answer("   of which awaiting something else than the database (HTTP, a stream)", SECONDS, "0ms")
    click.echo(err=True)
    return Given(
        max_connections=most,
        others=others,
        replicas=replicas,
        workers=workers,
        surge=surge,
        rate=rate,
        hold=hold,
        outside=outside,
    )
