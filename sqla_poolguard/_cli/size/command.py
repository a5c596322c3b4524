"""The command `poolguard size`: its options and its exit status."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from sqla_poolguard._cli.size.quantities import SECONDS, SHARE, Number, Whole
from sqla_poolguard._cli.surge import SURGE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["size"]

_FITS, _DOES_NOT, _COULD_NOT_RUN = 0, 1, 2
_INTERRUPTED: Final = 130
_WHOLE: Final = Whole(0)
_SOME: Final = Whole(1)
_LIMIT: Final = Whole(-1)
_CONNECTIONS: Final = Whole(1, 262_143)
"""What PostgreSQL takes."""
_FIRST_PREPARED: Final = (1, 21)
"""The first PgBouncer that knows prepared statements in transaction mode."""

_OPTIONS: Final = (
    ("--rate", Number(0.001, 10_000_000), "N", "Checkouts per second of the whole service, at its busiest."),
    ("--hold", SECONDS, "TIME", "How long each connection is held, on average: 30ms."),
    ("--hold-p50", SECONDS, "TIME", "Its median, with --hold-p99, in place of --hold."),
    ("--hold-p99", SECONDS, "TIME", "Its 99th percentile."),
    ("--outside", SECONDS, "TIME", "Of a mean hold, the part in which the database does not work: an HTTP call, a stream."),
    ("--burst", Whole(1, 1000), "N", "Checkouts that come at once (fan-out). [1]"),
    ("--nesting", _SOME, "N", "Connections that one task holds at the same time. [1]"),
    ("--tasks", _SOME, "N", "Tasks of a process that nest at the same time."),
    ("--wait", SECONDS, "TIME", "The wait for a connection that is tolerated. [50ms]"),
    ("--late", SHARE, "SHARE", "The share of checkouts that may wait for longer. [1%]"),
    ("--deadline", SECONDS, "TIME", "The time that a request has in all. [4s]"),
    ("--max-connections", _CONNECTIONS, "N", "Of the server; or --from postgresql://…"),
    ("--superuser-reserved", _WHOLE, "N", "superuser_reserved_connections. [3]"),
    ("--reserved", _WHOLE, "N", "reserved_connections (PostgreSQL 16), unless the role may use them. [0]"),
    ("--role-limit", _LIMIT, "N", "CONNECTION LIMIT of the role. [-1: none]"),
    ("--database-limit", _LIMIT, "N", "CONNECTION LIMIT of the database. [-1: none]"),
    ("--others", _WHOLE, "N", "Connections of other services, at their worst. [0, or what --from postgresql://… counts now]"),
    ("--headroom", _WHOLE, "N", "Connections kept free for people and migrations. [5]"),
    ("--cores", _SOME, "N", "Of the database server."),
    ("--replicas", _SOME, "N", "Pods or machines at the most. [1]"),
    ("--workers", _SOME, "N", "Processes of each. [$WEB_CONCURRENCY, or 1]"),
    ("--surge", SURGE, "N|%", "Replicas that a rollout adds (maxSurge). [0]"),
    ("--terminating", _WHOLE, "N", "Replicas that still end while new ones run. [0]"),
    ("--more-processes", _WHOLE, "N", "Processes beside them with the same engine: job workers. [0]"),
    ("--engines", _SOME, "N", "Engines in each process, on the same server. [1]"),
)


def _options(function: Callable[..., None]) -> Callable[..., None]:
    for name, kind, metavar, text in reversed(_OPTIONS):
        envvar = "WEB_CONCURRENCY" if name == "--workers" else None
        function = click.option(name, type=kind, metavar=metavar, help=text, envvar=envvar)(function)
    return function


def _version(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4})\.(\d{1,4})(?:\.\d{1,4})?", value, re.ASCII)
    if found is None:
        msg = f"{value!r} is no version; allowed: such as 1.24"
        raise click.BadParameter(msg)
    return int(found[1]), int(found[2])


def _window(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,3}[mhdw]", value, re.ASCII):
        msg = f"{value!r} is no window; allowed: a number with m, h, d or w, such as 1d"
        raise click.BadParameter(msg)
    return value


@click.command()
@click.option("--from", "places", multiple=True, metavar="PLACE", help="Measure: see above. May be repeated.")
@click.option("--pool", metavar="NAME", help="The pool, where --from shows several.")
@click.option("--watch", type=SECONDS, default="10s", metavar="TIME", help="How long to watch a process. [10s]")
@click.option("--window", default="1d", metavar="TIME", callback=_window, help="How far back to ask a Prometheus. [1d]")
@_options
@click.option(
    "--pgbouncer", "bouncer", default="1.24", metavar="VERSION", callback=_version, help="The PgBouncer to configure. [1.24]"
)
@click.option("--explain", is_flag=True, help="Show every formula, with its figures and its source.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def size(
    places: tuple[str, ...],
    pool: str | None,
    watch: float,
    window: str,
    bouncer: tuple[int, int],
    *,
    explain: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """
    Say how large a pool should be, and whether all pools fit.

    Computes from how long connections are held, and not from a table. In a terminal, without options, it asks.

    \b
    --from measures, and may be repeated:
      postgresql://…       a server: its limits for this role and database
      http://…/debug       the debug page of a running process, watched for --watch
      http://…/metrics     a process's metrics for Prometheus, likewise
      http://…:9090        a Prometheus that has collected them
      page.json            saved debug pages of one process, two or more

    Exit status: 0 if it fits, 1 if it does not, 2 if it could not run.
    """  # noqa: D301 - \b is click's own mark: do not wrap what follows
    from sqla_poolguard._cli.size.asking import ask  # noqa: PLC0415 - packages which may be missing
    from sqla_poolguard._cli.size.given import Given, gather  # noqa: PLC0415 - likewise
    from sqla_poolguard._cli.size.reading import read_from  # noqa: PLC0415 - likewise
    from sqla_poolguard._cli.size.screen import Screen  # noqa: PLC0415 - likewise
    from sqla_poolguard._cli.size.trouble import SizeError  # noqa: PLC0415 - likewise
    from sqla_poolguard._plan import make_plan  # noqa: PLC0415 - likewise
    from sqla_poolguard._sizing import Verdict  # noqa: PLC0415 - likewise

    screen = Screen(as_json=as_json)
    given = Given(**{name: value for name, value in options.items() if value is not None})
    try:
        if given.is_empty and not places and not as_json and sys.stdin.isatty():
            given = ask(given)
        with screen.busy("measuring"):
            measured = read_from(places, pool=pool, watch=watch, window=window)
        inputs = gather(given, measured)
        with screen.busy("computing"):
            plan = make_plan(inputs.load, inputs.target, inputs.service)
    except SizeError as error:
        screen.trouble(str(error))
        sys.exit(_COULD_NOT_RUN)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(_INTERRUPTED)
    screen.show(plan, inputs, explain=explain, prepared=bouncer >= _FIRST_PREPARED)
    sys.exit(_FITS if plan.verdict is Verdict.FITS else _DOES_NOT)
