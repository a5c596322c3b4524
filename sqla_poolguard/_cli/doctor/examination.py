"""One examination from the beginning to its end: find, read, gather, judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqla_poolguard._cli.doctor.evidence import Evidence
from sqla_poolguard._cli.doctor.gathering import Gathered, gather
from sqla_poolguard._cli.doctor.libpq import secrets_in, translated
from sqla_poolguard._cli.doctor.routes import walk
from sqla_poolguard._cli.doctor.rules import apply
from sqla_poolguard._cli.doctor.settings import address_of, connect_arguments, driver_arguments, read

if TYPE_CHECKING:
    from sqlalchemy import Engine

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
        gathered = _server(target.engine, target.elsewhere, circumstances.idle_in_transaction)
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
        unseen=(*target.unsaid, *gathered.unseen) if not offline else tuple(gathered.unseen),
    )
    return Examination(target.source, target.file, evidence, tuple(apply(evidence)))


def _server(engine: Engine, elsewhere: Engine | None, idle_seconds: float) -> Gathered:
    arguments = _arguments(engine, elsewhere)
    if arguments is None:
        gathered = Gathered()
        gathered.unseen.append("the server: the engine connects by a function of its own; say where to with --dsn")
        return gathered
    return gather(arguments, idle_seconds, secrets_in(arguments))


def _arguments(engine: Engine, elsewhere: Engine | None) -> dict[str, Any] | None:
    """Give what asyncpg is to be called with; None where that is not known."""
    own = connect_arguments(engine)
    if own is not None and "async_creator_fn" in own:
        own = None
    if elsewhere is not None:
        there = driver_arguments(connect_arguments(elsewhere) or {})
        settings = own.get("server_settings", {}) if own is not None and engine.dialect.driver == "asyncpg" else {}
        return {**there, "server_settings": {**settings, **there.get("server_settings", {})}}
    if own is None:
        return None
    if engine.dialect.driver == "asyncpg":
        return driver_arguments(own)
    parameters = translated({name: str(value) for name, value in own.items() if isinstance(value, (str, int))})
    given: dict[str, Any] = {**parameters.query, **parameters.arguments}
    for name in ("host", "port"):
        if "," in given.get(name, ""):
            given[name] = given[name].split(",")
    return given
