"""What can be wrong with an application: dependencies that hold a session while a response is sent, and instrumentation that does nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sqla_poolguard._cli.doctor.finding import Severity
from sqla_poolguard._cli.doctor.rules.rule import Hit, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._cli.doctor.evidence import Evidence

__all__ = ["RULES"]

_BEFORE: Final = (0, 106)
"""FastAPI's version from which a dependency ended before the response was sent …"""
_AFTER: Final = (0, 118)
"""… and from which it ends afterwards again …"""
_SCOPED: Final = (0, 121)
"""… and from which `Depends(…, scope="function")` ends it before."""
_ENDED_BEFORE: Final = "The session is closed before the first piece is sent: what the stream reads of it then fails, or opens a connection again, which nobody closes."


def _streams(evidence: Evidence) -> Iterator[Hit]:
    for app in evidence.apps:
        ended = _BEFORE <= _version(app.fastapi) < _AFTER
        for route in app.at_risk:
            where = f"{route.file}:{route.line}"
            seen = f"{route.path} ({route.endpoint}) answers with {route.kind}, and gets its session from {route.dependency}"
            yield Hit(
                where, seen, why=_ENDED_BEFORE if ended else None, fix=None if _version(app.fastapi) >= _SCOPED else _UNSCOPED
            )


def _semantics(evidence: Evidence) -> Iterator[Hit]:
    for app in evidence.apps:
        if not app.session_dependencies:
            continue
        version = _version(app.fastapi)
        if _BEFORE <= version < _AFTER:
            ends = "before the response is sent (0.106 to 0.117); from 0.118 on it ends afterwards"
        elif version < _SCOPED:
            ends = "after the response has been sent, background tasks included"
        else:
            ends = 'after the response has been sent, background tasks included, unless it is declared with scope="function"'
        names = ", ".join(app.session_dependencies[:3])
        yield Hit(app.source, f"FastAPI {app.fastapi}: a dependency with yield ({names}) ends {ends}")


def _instrumentation(evidence: Evidence) -> Iterator[Hit]:
    told = evidence.circumstances
    if told.instrumentor is None:
        return
    name = f"opentelemetry-instrumentation-sqlalchemy {told.instrumentor}"
    if told.instrumentor_refuses:
        seen = f"{name} is for sqlalchemy {told.instrumentor_refuses}; installed is {told.sqlalchemy}"
        yield Hit("this environment", seen)
    elif told.instrumented and any(settings.asynchronous for settings in evidence.settings):
        yield Hit("this environment", f"{name} instruments every engine of the process", why=_TWICE, fix=_ONCE)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


_UNSCOPED: Final = (
    "End the transaction before the stream begins: await session.commit(), or sqla_poolguard.release(session). From FastAPI 0.121 on: "
    'Depends(…, scope="function").'
)
_TWICE: Final = "Its pool metric counts each connection of an asyncio engine twice: one that is held is shown as two."
_ONCE: Final = "SQLAlchemyInstrumentor().instrument(engine=engine.sync_engine), for each engine; or take the metrics of GuardedPool, and leave it out."

RULES: Final = (
    Rule(
        code="PG020",
        title="A stream holds a connection for as long as its client reads",
        severity=Severity.WARNING,
        looks="A FastAPI route that answers with StreamingResponse, FileResponse or server-sent events, or as a generator, has a dependency "
        "that yields a session (by its annotation, or by its source) and ends with the request. Not where the endpoint's source shows that it "
        'commits, rolls back, closes or releases that session before, and asks nothing afterwards; nor where the dependency has scope="function". '
        "A connection is given back by close() alone. Helpers are read as well, two or three calls deep. What cannot be seen: sessions that "
        "are no dependency, objects that the endpoint makes of a session, attributes that load when they are read.",
        why="The dependency ends when the last piece has been sent: a client that reads slowly holds a connection, idle in transaction; as "
        "many as the pool has, and the application stands still.",
        fix='Depends(get_session, scope="function") ends the session before the response is sent; or end the transaction before the stream '
        "begins: await session.commit(), or sqla_poolguard.release(session).",
        check=_streams,
    ),
    Rule(
        code="PG021",
        title="When a session's dependency ends depends on FastAPI's version",
        severity=Severity.INFO,
        looks="A FastAPI application with dependencies that yield a session.",
        why="An upgrade over 0.106 or 0.118 moves the end of every session to the other side of the response.",
        fix='Say what you mean: scope="function" where the session is not needed after the endpoint has returned (FastAPI 0.121 and newer).',
        check=_semantics,
    ),
    Rule(
        code="PG022",
        title="The instrumentation of SQLAlchemy does not do what it seems to",
        severity=Severity.WARNING,
        looks="opentelemetry-instrumentation-sqlalchemy is installed and is not for the SQLAlchemy that is installed; or it instruments all "
        "engines of a process that has asyncio engines.",
        why="It logs one line when the application starts, and instruments nothing: no spans, no metrics.",
        fix="SQLAlchemyInstrumentor().instrument(engine=engine.sync_engine, skip_dep_check=True) works; pool metrics come with GuardedPool by "
        "themselves.",
        check=_instrumentation,
    ),
)
