"""One examination from the beginning to its end: find, read, gather, judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqla_poolguard._cli.doctor.evidence import Evidence
from sqla_poolguard._cli.doctor.gathering import Gathered, gather
from sqla_poolguard._cli.doctor.routes import walk
from sqla_poolguard._cli.doctor.rules import apply
from sqla_poolguard._cli.doctor.settings import address_of, connect_arguments, driver_arguments, read

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from sqla_poolguard._cli.doctor.evidence import Circumstances
    from sqla_poolguard._cli.doctor.finding import Finding
    from sqla_poolguard._cli.doctor.target import Target

__all__ = ["Examination", "examine"]


@dataclass(frozen=True, slots=True)
class Examination:
    """What came of it."""

    source: str
    """What was asked about, without a password."""
    file: str | None
    """Of the module that was asked about, as seen from here; None for an address."""
    evidence: Evidence
    findings: tuple[Finding, ...]


def examine(target: Target, circumstances: Circumstances, *, offline: bool = False) -> Examination:
    """
    Examine what was found; blocks for a few seconds at most.

    Args:
        target: what to examine.
        circumstances: what was told.
        offline: whether to leave the server alone.
    """
    engines = [] if target.engine is None else [target.engine, *target.others]
    names = [target.source, *(f"another engine ({address_of(one, connect_arguments(one))})" for one in target.others)]
    settings = tuple(read(one, name, assumed=target.assumed) for one, name in zip(engines, names, strict=bool(engines)))
    gathered = Gathered()
    if offline:
        gathered.unseen.append("the server: --offline")
    elif target.engine is not None:
        gathered = _server(target.engine, target.url, circumstances.idle_in_transaction)
    else:
        gathered.unseen.append("an engine, and its server: the module has made none; name it, as in myapp.database:engine")
    evidence = Evidence(
        settings=settings,
        circumstances=circumstances,
        server=gathered.server,
        trouble=gathered.trouble,
        pooler=gathered.pooler,
        cost=gathered.cost,
        apps=tuple(walk(app, target.source) for app in target.apps),
        unseen=tuple(gathered.unseen),
    )
    return Examination(target.source, target.file, evidence, tuple(apply(evidence)))


def _server(engine: Engine, elsewhere: URL | None, idle_seconds: float) -> Gathered:
    arguments = _arguments(engine, elsewhere)
    if isinstance(arguments, str):
        gathered = Gathered()
        gathered.unseen.append(f"the server: {arguments}")
        return gathered
    password = arguments.get("password")
    secrets = [str(password)] if isinstance(password, str) else []
    return gather(arguments, idle_seconds, secrets)


def _arguments(engine: Engine, elsewhere: URL | None) -> dict[str, Any] | str:
    """Give what asyncpg is to be called with, or why that is not known."""
    own = connect_arguments(engine)
    if own is None or "async_creator_fn" in own:
        own = None
        if elsewhere is None:
            return "the engine connects by a function of its own; say where to with --dsn"
    url = engine.url if elsewhere is None else elsewhere
    if elsewhere is None and own is not None and engine.dialect.driver == "asyncpg":
        return driver_arguments(own)
    address = url.translate_connect_args(username="user")
    query = {name: value for name, value in url.query.items() if name in {"ssl", "sslmode"}}
    if isinstance(socket := url.query.get("host"), str):
        address["host"] = socket
    if query:
        address["ssl"] = next(iter(query.values()))
    if own is not None and engine.dialect.driver == "asyncpg" and "server_settings" in own:
        address["server_settings"] = own["server_settings"]
    return address
