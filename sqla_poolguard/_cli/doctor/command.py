"""The command `poolguard doctor`: arguments and exit status. What it does is elsewhere, and imported when it is called."""

from __future__ import annotations

import math
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

import click

from sqla_poolguard._cli.surge import SURGE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["doctor"]

_FOUND, _COULD_NOT_RUN, _INTERRUPTED = 1, 2, 130
_FORMATS: Final = ("text", "json", "github", "sarif", "junit")
_LEVELS: Final = ("error", "warning", "info", "never")
_COUNTS: Final = {
    "replicas": "Replicas of the service at most.",
    "workers": "Processes of each replica; default: WEB_CONCURRENCY.",
    "surge": "Replicas that a rollout starts before it stops old ones, or a percentage.",
    "terminating": "Replicas that still finish requests during a rollout.",
    "more": "Processes beside them with the same engine, such as job workers.",
}
_SECONDS: Final = {
    "deadline": "Seconds that a request may take.",
    "probe-timeout": "Seconds that a health probe waits.",
    "idle-cut": "Seconds after which something in between drops an idle connection.",
    "hold": "Seconds for which a request holds a connection (p50).",
    "idle-in-transaction": "Seconds idle in transaction that are too many.  [default: 5]",
}


class _Seconds(click.FloatRange):
    """A length of time; "nan" and "inf" are none, though Python reads them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            self.fail(f"{value} is not allowed; allowed: a number of seconds, 0 or more", param, ctx)
        return seconds


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for what nobody can see from here."""
    for name, text in reversed(_SECONDS.items()):
        command = click.option(f"--{name}", type=_Seconds(min=0), metavar="SECONDS", help=text)(command)
    for name, text in reversed(_COUNTS.items()):
        kind, metavar = (SURGE, "N|%") if name == "surge" else (click.IntRange(min=0), "N")
        command = click.option(f"--{name}", type=kind, metavar=metavar, help=text)(command)
    return command


@click.command()
@click.argument("target", required=False, metavar="DSN|MODULE:ENGINE")
@click.option("--dsn", metavar="URL", help="Look at this server instead of the one that the engine leads to.")
@click.option("-o", "--option", "options", multiple=True, metavar="NAME=VALUE", help="With a DSN: an option of the engine.")
@_told
@click.option("--offline", is_flag=True, help="Look at the settings and the application only; connect to nothing.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="text", show_default=True, help="How to report.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--fail-on", type=click.Choice(_LEVELS), default="warning", show_default=True, help="From which findings on to exit with 1."
)
@click.option("--explain", metavar="CODE", help='Say what a rule is about, such as PG007; "all" for every rule.')
def doctor(
    *,
    target: str | None,
    dsn: str | None,
    options: tuple[str, ...],
    offline: bool,
    form: str,
    as_json: bool,
    fail_on: str,
    explain: str | None,
    **told: Any,
) -> None:
    """
    Examine an engine and the server it leads to.

    TARGET is an address (postgresql://user@host/database) or a name in a module, such as myapp.database:engine; an engine, a sessionmaker
    or a FastAPI application. Connects to the server with one short-lived connection of its own at a time, never through the application's pool, and changes
    nothing. What it has no right to see it says.

    Exit status: 0 if nothing was found, 1 for findings (see --fail-on), 2 if it could not run.
    """
    from sqla_poolguard._cli.doctor.report import Report  # noqa: PLC0415 - half a second's worth of packages

    report = Report("json" if as_json else form)
    if explain is not None:
        sys.exit(0 if report.explain(explain) else _COULD_NOT_RUN)
    if target is None:
        raise click.UsageError("name what to examine: an address, or MODULE:ENGINE")  # noqa: EM101 - click's own error
    from sqla_poolguard._cli.doctor.examination import examine  # noqa: PLC0415 - likewise
    from sqla_poolguard._cli.doctor.surroundings import look_around  # noqa: PLC0415 - likewise
    from sqla_poolguard._cli.doctor.target import find  # noqa: PLC0415 - likewise
    from sqla_poolguard._cli.doctor.trouble import DoctorError, hushed  # noqa: PLC0415 - likewise

    try:
        counts = {name: told.pop(name) for name in _COUNTS}
        found = find(target, dsn, _pairs(options))
        examination = examine(found, look_around(counts, **told), offline=offline)
    except DoctorError as error:
        report.trouble(hushed(str(error)))
        sys.exit(_COULD_NOT_RUN)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception:  # noqa: BLE001 - whatever it is, it is not "findings"
        report.trouble(f"a defect of its own, please report it:\n{hushed(traceback.format_exc())}")
        sys.exit(_COULD_NOT_RUN)
    failing = [one for one in examination.findings if fail_on != "never" and one.severity.rank <= _LEVELS.index(fail_on)]
    report.show(examination, failing)
    sys.exit(_FOUND if failing else 0)


def _pairs(options: tuple[str, ...]) -> dict[str, str]:
    from sqla_poolguard._cli.doctor.trouble import DoctorError  # noqa: PLC0415 - likewise

    pairs = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            msg = f"--option {option}: wanted is NAME=VALUE, such as pool_size=10"
            raise DoctorError(msg)
        pairs[name] = value
    return pairs
