"""The whole demo: find a database and a collector, start the server process, play the acts, tell the outcome."""

from __future__ import annotations

import asyncio
import importlib
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import httpx

from sqla_poolguard._cli.demo import burst, culprit, leak
from sqla_poolguard._cli.demo.collector import find_collector
from sqla_poolguard._cli.demo.database import find_database
from sqla_poolguard._cli.demo.files import allow_many_files
from sqla_poolguard._cli.demo.payments import Payments
from sqla_poolguard._cli.demo.process import ServerProcess
from sqla_poolguard._cli.demo.scene import Scene
from sqla_poolguard._cli.demo.settings import ServerSettings
from sqla_poolguard._cli.demo.trouble import DemoError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqla_poolguard._cli.demo.collector import Collector
    from sqla_poolguard._cli.demo.database import Database
    from sqla_poolguard._cli.demo.scene import Act
    from sqla_poolguard._cli.demo.screen import Screen

__all__ = ["Outcome", "run"]

_NEEDED_BY_THE_SERVER: Final = ("asyncpg", "uvicorn")
_CONTROL_TIMEOUT: Final = 60.0
_PLAYS: Final[dict[str, Callable[[Scene], Awaitable[Act]]]] = {"burst": burst.play, "culprit": culprit.play, "leak": leak.play}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went."""

    acts: tuple[Act, ...]
    """In the order in which they were played."""
    seconds: float
    """All in all."""
    sent: dict[str, Any] | None
    """What went to the collector; None without one."""

    @property
    def passed(self) -> bool:
        """Whether every act showed what it should."""
        return all(check.passed for act in self.acts for check in act.checks)


def run(
    dsn: str | None, otlp: str | None, otlp_protocol: str | None, acts: Sequence[str], screen: Screen, *, quick: bool
) -> Outcome:
    """
    Play the acts.

    Args:
        dsn: the reader's server; None: start one.
        otlp: address of a collector; None: no telemetry.
        otlp_protocol: how to talk to it; None: as its port tells.
        acts: which acts.
        screen: where it is shown.
        quick: less load, for tests.

    Raises:
        DemoError: it could not run.
    """
    started = time.perf_counter()
    allow_many_files()
    for package in _NEEDED_BY_THE_SERVER:  # if one is missing, it should be missed here
        importlib.import_module(package)
    with ExitStack() as stack:
        with screen.progress() as tell:
            tell("looking for the collector" if otlp else "starting", 0.0)
            collector = find_collector(otlp, otlp_protocol) if otlp is not None else None
            tell("connecting to PostgreSQL" if dsn else "starting PostgreSQL", 0.3)
            database = stack.enter_context(find_database(dsn))
        screen.opening(database, collector)
        played, sent = asyncio.run(_play(database, collector, acts, screen, quick=quick))
    outcome = Outcome(played, time.perf_counter() - started, sent)
    screen.closing(outcome)
    return outcome


async def _play(
    database: Database, collector: Collector | None, acts: Sequence[str], screen: Screen, *, quick: bool
) -> tuple[tuple[Act, ...], dict[str, Any] | None]:
    async with AsyncExitStack() as stack:
        with screen.progress() as tell:
            tell("starting the shop", 0.6)
            payments = await stack.enter_async_context(Payments())
            settings = ServerSettings(database.url, payments.url)
            if collector is not None:
                settings = replace(
                    settings, otlp_protocol=collector.protocol, otlp_traces=collector.traces, otlp_metrics=collector.metrics
                )
            server = await stack.enter_async_context(ServerProcess(settings))
            client = httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=_CONTROL_TIMEOUT)
            control = await stack.enter_async_context(client)
        try:
            played = tuple([await _act(name, server, payments, control, screen, quick=quick) for name in acts])
            return played, await _flush(control, collector)
        except (httpx.TransportError, OSError, EOFError) as error:
            raise server.ended() from error
        except ExceptionGroup as group:  # the crowd asks in a task group
            if group.split((OSError, EOFError))[1] is None:
                raise server.ended() from group
            raise


async def _act(
    name: str, server: ServerProcess, payments: Payments, control: httpx.AsyncClient, screen: Screen, *, quick: bool
) -> Act:
    with screen.progress() as tell:
        act = await _PLAYS[name](Scene(server, payments, control, quick, tell))
    screen.act(act)
    return act


async def _flush(control: httpx.AsyncClient, collector: Collector | None) -> dict[str, Any] | None:
    if collector is None:
        return None
    sent: dict[str, Any] = (await control.post("/control/flush")).raise_for_status().json()
    if sent["lost"] or not sent["spans"]:
        msg = f"the collector at {collector.url} took {sent['spans']} spans and lost {sent['lost']} messages: look into its log."
        raise DemoError(msg)
    return {"url": collector.url, "takes_metrics": collector.metrics is not None, **sent}
