"""The subcommand `top`: its arguments and its exit status."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from sqla_poolguard._cli.top.figures import is_wrong
from sqla_poolguard._cli.top.source import TopError, from_page, from_sockets, parse_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._cli.top.source import Process

__all__ = ["top"]

_WRONG, _COULD_NOT_RUN = 1, 2
_NO_TERMINAL_WIDTH: Final = 120
_FASTEST, _SLOWEST = 0.1, 3600.0


class _Interval(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.1
    """Seconds between two looks; click's own range lets `nan` pass."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read them."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not _FASTEST <= seconds <= _SLOWEST:
            self.fail(f"{value} is not allowed; allowed: seconds from {_FASTEST:g} to {_SLOWEST:g}", param, ctx)
        return seconds


@click.command()
@click.option("--pid", "pids", multiple=True, type=click.IntRange(min=1), help="Look at this process only; may be repeated.")
@click.option("--url", metavar="URL", help="Look at this debug page of an ASGI application instead.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Send this header with --url; or that of $POOLGUARD_HEADER.",
)
@click.option("--interval", type=_Interval(), default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Look once, print it, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one document, or one in each line without --once.")
def top(*, pids: tuple[int, ...], url: str | None, headers: tuple[str, ...], interval: float, once: bool, as_json: bool) -> None:
    """
    See who holds and who waits, live.

    Looks into the processes of this user whose engines have Guard(inspect=True), or at the debug page of an application (--url).
    Press q to quit.

    Exit status of --once: 0 if nothing is wrong now, 1 if something is (a hold for nothing or a wait of a second or more, an
    overdue hold, an outage, a process that does not answer), 2 if there is nothing to look at.
    """
    try:
        look = _source(pids, url, headers)
        if once:
            processes = look()
            _print(processes, as_json=as_json)
            sys.exit(_WRONG if is_wrong(processes) else 0)
        if as_json:
            while True:
                _print(look(), as_json=True)
                time.sleep(interval)
        _watch(look, interval)
    except TopError as error:
        if as_json:
            click.echo(json.dumps({"error": str(error)}))
        click.echo(f"poolguard top: {error}", err=True)
        sys.exit(_COULD_NOT_RUN)
    except KeyboardInterrupt:
        sys.exit(0)
    except BrokenPipeError:
        sys.stdout = None  # nobody reads, so nothing is to be flushed
        sys.exit(0)


def _source(pids: tuple[int, ...], url: str | None, headers: tuple[str, ...]) -> Callable[[], list[Process]]:
    """Choose whom to ask."""
    if url is None:
        return partial(from_sockets, pids)
    if pids:
        msg = "--url and --pid name different things; give one of them"
        raise TopError(msg)
    own = os.environ.get("POOLGUARD_HEADER")  # which nobody sees who lists processes
    return partial(from_page, url, parse_headers(headers or ((own,) if own else ())))


def _print(processes: list[Process], *, as_json: bool) -> None:
    if as_json:
        content: list[dict[str, Any]] = [
            {"process": each.name, "pools": list(each.pools), "trouble": each.trouble} for each in processes
        ]
        click.echo(json.dumps({"wrong": is_wrong(processes), "processes": content}))
        sys.stdout.flush()
        return
    from rich.console import Console  # noqa: PLC0415 - only who wants to see it needs rich

    from sqla_poolguard._cli.top.screen import print_once  # noqa: PLC0415 - likewise

    console = Console(highlight=False)
    print_once(console, processes, console.width if console.is_terminal or "COLUMNS" in os.environ else _NO_TERMINAL_WIDTH)


def _watch(look: Callable[[], list[Process]], interval: float) -> None:
    """Show it on a screen of its own until somebody quits."""
    if not sys.stdout.isatty():
        msg = "the output is no terminal; use --once, or --json"
        raise TopError(msg)
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.live import Live  # noqa: PLC0415 - likewise

    from sqla_poolguard._cli.top.keys import Keys  # noqa: PLC0415 - likewise
    from sqla_poolguard._cli.top.screen import clock, draw  # noqa: PLC0415 - likewise

    processes = look()  # what is wrong with the arguments is told before the screen changes
    console = Console(highlight=False)
    totals, seen_at = _totals(processes), time.monotonic()
    rates: dict[tuple[str, str], float] = {}
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            trouble: str | None = None
            while True:
                note = f"{trouble or clock()}  every {interval:g} s  q quits"
                size = console.size
                live.update(draw(processes, width=size.width, height=size.height, note=note, rates=rates), refresh=True)
                passed = time.monotonic() - seen_at
                if not keys.wait(max(interval - passed, 0.0)):
                    return
                if time.monotonic() - seen_at < interval:  # a key, or another size: only drawn anew
                    continue
                try:
                    processes, trouble = look(), None
                except TopError as error:  # it may come back
                    processes, trouble = [], str(error).partition(":")[0]
                now, new = time.monotonic(), _totals(processes)
                rates = {key: max(new[key] - totals[key], 0) / (now - seen_at) for key in new.keys() & totals.keys()}
                totals, seen_at = new, now
    finally:
        signal.signal(signal.SIGTERM, before)


def _totals(processes: list[Process]) -> dict[tuple[str, str], int]:
    return {(process.name, pool["pool"]): int(pool.get("granted", 0)) for process in processes for pool in process.pools}


def _interrupt(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt
