"""The command `poolguard` and its subcommands: arguments, exit status, signals. What they do is elsewhere."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from sqla_poolguard._cli.demo.settings import OTLP_PROTOCOLS
from sqla_poolguard._cli.demo.trouble import DemoError
from sqla_poolguard._cli.doctor.command import doctor
from sqla_poolguard._cli.files import prometheus
from sqla_poolguard._cli.size.command import size
from sqla_poolguard._cli.top.command import top
from sqla_poolguard._cli.trouble import Commands
from sqla_poolguard._version import own_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["poolguard"]

_ACTS: Final = ("burst", "culprit", "leak")
_FAILED, _COULD_NOT_RUN = 1, 2


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(own_version(), prog_name="poolguard")
def poolguard() -> None:
    """Know who holds every database connection."""


poolguard.add_command(prometheus)
poolguard.add_command(size)
poolguard.add_command(doctor)
poolguard.add_command(top)


@poolguard.command()
@click.option(
    "--dsn", metavar="URL", help="Use this PostgreSQL (postgresql://user:password@host/database). Nothing is created in it."
)
@click.option("--act", "acts", multiple=True, type=click.Choice(_ACTS), help="Play this act only; may be repeated.")
@click.option("--otlp", metavar="URL", help="Send spans and metrics to this collector or Jaeger, such as http://localhost:4318.")
@click.option(
    "--otlp-protocol",
    type=click.Choice(OTLP_PROTOCOLS),
    help="How to talk to it. Without it: grpc at port 4317, http/protobuf at any other.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.option("--quick", is_flag=True, help="One round only: rougher figures, sooner.")
def demo(
    *, dsn: str | None, acts: tuple[str, ...], otlp: str | None, otlp_protocol: str | None, as_json: bool, quick: bool
) -> None:
    """
    See a guarded pool at work, in half a minute.

    Starts a throw-away PostgreSQL (or uses yours), a FastAPI application on uvicorn and an HTTP load, and plays three acts:
    a burst on the stock pool and on GuardedPool, a route that holds its connections too long, and a session that is never
    closed. Nothing is left behind.

    Exit status: 0 if every act showed what it should, 1 if one did not, 2 if it could not run.
    """
    with _terminated_like_interrupted():
        from sqla_poolguard._cli.demo.run import run  # noqa: PLC0415 - a second's worth of packages, which may be missing
        from sqla_poolguard._cli.demo.screen import Screen  # noqa: PLC0415 - likewise

        screen = Screen(as_json=as_json)
        try:
            outcome = run(dsn, otlp, otlp_protocol, acts or _ACTS, screen, quick=quick)
        except DemoError as error:
            screen.trouble(str(error))
            sys.exit(_COULD_NOT_RUN)
    sys.exit(0 if outcome.passed else _FAILED)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Clean up after SIGTERM and SIGHUP as after ctrl-C."""
    received: list[int] = []

    def interrupt(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)
        if signal.getsignal(signal.SIGINT) in {signal.SIG_IGN, signal.SIG_DFL}:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in signals if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.flush()
        sys.exit(128 + (received[0] if received else signal.SIGINT))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
