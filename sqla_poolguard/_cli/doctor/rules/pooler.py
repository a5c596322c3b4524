"""What can be wrong between an engine and a pooler such as PgBouncer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sqla_poolguard._budget import Bound
from sqla_poolguard._cli.doctor.capacity import capacity
from sqla_poolguard._cli.doctor.evidence import Naming
from sqla_poolguard._cli.doctor.finding import Severity
from sqla_poolguard._cli.doctor.rules.rule import Hit, Rule, asyncpg_engines, milliseconds, place, plural
from sqla_poolguard._cli.doctor.rules.server import counted, demand
from sqla_poolguard._cli.doctor.sights import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._cli.doctor.capacity import Capacity
    from sqla_poolguard._cli.doctor.evidence import Evidence, Settings
    from sqla_poolguard._cli.doctor.sights import Pooler

__all__ = ["RULES", "hazard"]

_UNNAMED_SINCE: Final = (0, 31)
"""asyncpg's version from which `statement_cache_size=0` alone means statements without names."""
_LONG_WAIT: Final = 1.0

_LEFT_BEHIND: Final = (
    "Every statement stays on the server connection on which it was prepared: they grow for ever, and in AUTOCOMMIT most executions fail, "
    "as the next message goes to another connection."
)
_SAFE: Final = (
    'create_async_engine("…?prepared_statement_cache_size=0", connect_args={"statement_cache_size": 0, '
    '"prepared_statement_name_func": lambda: ""}); or let PgBouncer keep statements apart: 1.21 or newer with max_prepared_statements=200'
)


def hazard(settings: Settings, asyncpg: str | None) -> Naming | None:
    """
    Tell what an engine's prepared statements do behind a pooler that hands server connections from client to client, and keeps no statements apart.

    Measured: 3 processes, 288 transactions each way, on PgBouncer 1.18 and on 1.24 with max_prepared_statements=0.

    Returns:
        None where they do no harm; else the naming that does it.
    """
    if settings.statement_cache_size == 0:
        if settings.naming is Naming.EMPTY and settings.prepared_cache_size == 0:
            return None
        if settings.naming is not Naming.OWN and _version(asyncpg) >= _UNNAMED_SINCE:
            return None
    return Naming.OWN if settings.naming is Naming.OWN else Naming.COUNTED


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text or "")[:2])


def _pooled(evidence: Evidence) -> Iterator[Hit]:
    pooler = evidence.pooler
    if pooler is None:
        return
    known = f"{pooler.mode} mode" if pooler.mode is not Mode.UNKNOWN else "its mode could not be told"
    by = f"; {known}: {pooler.mode_proof}" if pooler.mode_proof else f"; {known}"
    version = f"; PgBouncer {pooler.console.version}" if pooler.console else ""
    yield Hit(place(evidence), f"{pooler.proof}{by}{version}")


def _keeps_apart(pooler: Pooler) -> bool:
    if pooler.renames is not None:
        return pooler.renames
    return bool(pooler.console and pooler.console.max_prepared_statements)


def _statements(evidence: Evidence) -> Iterator[Hit]:
    pooler = evidence.pooler
    if pooler is None or pooler.mode is Mode.SESSION or _keeps_apart(pooler):
        return
    sure = pooler.mode is not Mode.UNKNOWN
    mode = f"{pooler.mode} mode" if sure else "a pooler whose mode could not be told"
    kept = ", and a statement that was prepared kept its own name on the server connection" if pooler.renames is False else ""
    for settings in asyncpg_engines(evidence):
        if settings.address != evidence.settings[0].address:
            continue
        harm = hazard(settings, evidence.circumstances.asyncpg)
        if harm is None:
            continue
        old = f", asyncpg {evidence.circumstances.asyncpg}" if settings.statement_cache_size == 0 else ""
        seen = (
            f"{mode}{kept}; statement_cache_size={settings.statement_cache_size}, "
            f"prepared_statement_cache_size={settings.prepared_cache_size}, names: {settings.naming}{old}"
        )
        severity = None if sure and harm is Naming.COUNTED else Severity.WARNING
        yield Hit(settings.source, seen, severity, why=_LEFT_BEHIND if harm is Naming.OWN else None)


def _rejected(evidence: Evidence) -> Iterator[Hit]:
    if evidence.pooler is not None and evidence.pooler.rejected is not None:
        yield Hit(evidence.settings[0].source, f"the pooler said: {evidence.pooler.rejected}")


def _ping(evidence: Evidence) -> Iterator[Hit]:
    if evidence.pooler is None:
        return
    for settings in evidence.settings[:1]:
        if settings.pre_ping:
            cost = f"; one takes {milliseconds(evidence.cost.own_ping)} here" if evidence.cost else ""
            stock = "three round trips" if settings.driver == "asyncpg" else "a round trip or more"
            trips = "one round trip" if settings.guarded and settings.driver == "asyncpg" else stock
            yield Hit(settings.source, f"pool_pre_ping=True: {trips} at every checkout{cost}")


def _limits_of_pooler(evidence: Evidence) -> Iterator[Hit]:
    console = evidence.pooler.console if evidence.pooler else None
    if console is None:
        return
    limits = evidence.server.limits if evidence.server else None
    if limits is not None:
        database = evidence.settings[0].address.rpartition("/")[2] if evidence.settings else ""
        role = _role(evidence)
        for slots, bound in limits.rooms:  # each limit counts its own
            user = role if bound is Bound.ROLE else None
            can = capacity(console, database, only_user=user, only_database=database if bound is Bound.DATABASE else None)
            who = {
                Bound.SERVER: f"the server has {slots} for role {role}",
                Bound.ROLE: f"role {role} can have {slots}",
                Bound.DATABASE: f"database {database} can have {slots}",
            }
            if can.connections > slots:
                yield Hit("PgBouncer", f"{_pools(can)} = {can.connections} server connections; {who[bound]}")
    clients = demand(evidence) if evidence.settings and evidence.settings[0].bounded else None
    if clients is not None and clients > console.max_client_conn:
        seen = f"{counted(evidence)} = {clients} clients; max_client_conn is {console.max_client_conn}"
        yield Hit(evidence.settings[0].source, seen)
    if evidence.trouble is not None:  # another rule's matter; the doctor was one of those that wait
        return
    for pool in console.pools:
        if pool.waiting and pool.longest_wait >= _LONG_WAIT:
            which = f"{pool.database}/{pool.user}"
            seen = f"{plural(pool.waiting, 'client')} of {which} wait for a server connection, the first for {pool.longest_wait:.1f} s"
            yield Hit("PgBouncer", seen, Severity.WARNING)


def _pools(can: Capacity) -> str:
    """Write how it was counted."""
    sizes = " or ".join(map(str, can.sizes))
    reserve = f" + reserve_pool_size {' or '.join(map(str, can.reserves))}" if can.reserves else ""
    bounded = f", bounded by {' and '.join(can.bounded)}" if can.bounded else ""
    return f"{plural(can.pools, 'pool')} of {sizes}{reserve}{bounded}"


def _role(evidence: Evidence) -> str:
    return evidence.server.role if evidence.server else ""


RULES: Final = (
    Rule(
        code="PG006",
        title="There is a pooler in between",
        severity=Severity.INFO,
        looks="The process that was announced when the connection was opened (BackendKeyData) is not the one that serves it "
        "(`pg_backend_pid()`). That needs no rights. The mode is told by what a second client finds of a first one's session, or by the console.",
        why="Limits, timeouts and prepared statements are the pooler's to decide.",
        fix="Nothing, if you know of it.",
        check=_pooled,
    ),
    Rule(
        code="PG007",
        title="WRONG RESULTS: another process's prepared statements",
        severity=Severity.ERROR,
        looks="A pooler in transaction (or statement) mode that keeps no prepared statements apart (PgBouncer before 1.21, or with "
        "max_prepared_statements=0), and an engine that prepares statements with names. A warning where the mode could not be told.",
        why="Data corruption, not a nuisance. Each process of yours names its statements alike (__asyncpg_stmt_1__, __asyncpg_stmt_2__, …), and "
        "the pooler lets them share server connections. So a request can run the statement of another process and be given its rows, "
        "with no error at all; or it fails with 'prepared statement does not exist' or 'already exists'. One process alone does not show it.",
        fix=_SAFE,
        check=_statements,
    ),
    Rule(
        code="PG008",
        title="The pooler refuses the engine's server_settings",
        severity=Severity.ERROR,
        looks="A connect with the engine's own arguments was refused with 'unsupported startup parameter', and one without its "
        "`server_settings` was not.",
        why="Every connect of the application fails the same way.",
        fix="Take them out of connect_args (application_name may stay) and set them on the server: ALTER ROLE … SET …; or have the "
        "pooler's ignore_startup_parameters name them, which ignores them.",
        check=_rejected,
    ),
    Rule(
        code="PG009",
        title="The ping asks the pooler",
        severity=Severity.WARNING,
        looks="`pool_pre_ping` is on, and there is a pooler in between.",
        why="It takes a server connection for the time of a ping, at every checkout, and says of the pooler, not of the server, whether it is "
        "there: the connection that answers is not the one that the transaction will get.",
        fix="pool_pre_ping=False; with a GuardedPool guard=Guard(ping_after=30) asks only what was idle. The pooler checks its own server connections.",
        check=_ping,
    ),
    Rule(
        code="PG019",
        title="The pooler's limits do not fit",
        severity=Severity.ERROR,
        looks="PgBouncer's console (psycopg, and a role among its admin_users or stats_users): server connections of all its pools "
        "to this server (pool_size is for each pair of user and database, reserve_pool_size comes on top, max_db_connections and "
        "max_user_connections bound them, each also where a database or a user has its own) against the server's slots; clients at peak "
        "against max_client_conn. A warning while clients wait for a second or more.",
        why="Either clients are refused (max_client_conn), or PgBouncer is (53300), at the worst moment. reserve_pool_size is no reserve for "
        "administrators: it is for clients that have waited.",
        fix="max_db_connections bounds what PgBouncer opens for a database, over all users; max_client_conn costs little memory. More than "
        "one PgBouncer: count each.",
        check=_limits_of_pooler,
    ),
)
