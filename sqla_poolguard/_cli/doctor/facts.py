"""What was seen, in a few lines, before anything is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqla_poolguard._budget import shown_size
from sqla_poolguard._cli.doctor.rules.rule import milliseconds, plural
from sqla_poolguard._cli.doctor.sights import AFTER, Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._cli.doctor.evidence import Circumstances, Evidence, Settings
    from sqla_poolguard._cli.doctor.sights import Cost, Pooler

__all__ = ["facts"]


def facts(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Give the lines: what, and what is known of it."""
    for number, settings in enumerate(evidence.settings):
        name = "engine" if number == 0 else "and"
        yield name, f"{settings.address}, {settings.driver}, {_pool(settings, evidence.circumstances)}"
    if evidence.server is not None:
        server, limits = evidence.server, evidence.server.limits
        slots = f", {limits.room.slots} slots of {limits.max_connections}, {server.connected} taken" if limits else ""
        yield "server", f"PostgreSQL {server.version}, role {server.role}{slots}"
    if evidence.pooler is not None:
        yield "pooler", _pooler(evidence.pooler)
    if evidence.cost is not None:
        yield "a connect", _connect(evidence.cost)
        yield "a ping", _ping(evidence.cost, {settings.driver for settings in evidence.settings})
    for app in evidence.apps:
        yield "app", f"FastAPI {app.fastapi}, {plural(app.routes, 'route')}"


def _pool(settings: Settings, told: Circumstances) -> str:
    if not settings.bounded:
        return settings.pool
    processes = told.processes.pools
    assumed = " (SQLAlchemy's defaults: -o pool_size=… tells otherwise)" if settings.assumed else ""
    return f"{settings.pool} {shown_size(settings.pool_size, settings.max_overflow)} x {processes} {'process' if processes == 1 else 'processes'}{assumed}"


def _pooler(pooler: Pooler) -> str:
    name = f"PgBouncer {pooler.console.version}" if pooler.console else "a pooler"
    mode = f"{pooler.mode} mode" if pooler.mode is not Mode.UNKNOWN else "mode not known"
    apart = {True: ", keeps prepared statements apart", False: ", does not keep prepared statements apart", None: ""}[
        pooler.renames
    ]
    return f"{name}, {mode}{apart if pooler.mode is not Mode.SESSION else ''}"


def _connect(cost: Cost) -> str:
    steps = ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in cost.phases if name not in AFTER)
    after = ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in cost.phases if name in AFTER)
    tls = f" ({cost.tls})" if cost.tls else ""
    return f"{milliseconds(cost.connect)}{tls}: {steps}; then {after}"


def _ping(cost: Cost, drivers: set[str]) -> str:
    if drivers and "asyncpg" not in drivers:  # SQLAlchemy's is an empty statement there, as ours
        return f"{milliseconds(cost.own_ping)} (one round trip)"
    own = f"GuardedPool's {milliseconds(cost.own_ping)} (one round trip)"
    if cost.stock_ping is None:
        return f"{own}; SQLAlchemy's takes three"
    return f"SQLAlchemy's {milliseconds(cost.stock_ping)} (three round trips), {own}"
