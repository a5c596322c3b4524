"""What can be wrong with a server, or with what an engine asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqla_poolguard._budget import Bound, Others, shown_size
from sqla_poolguard._cli.doctor.finding import Severity
from sqla_poolguard._cli.doctor.rules.rule import Hit, Rule, engines, place, plural
from sqla_poolguard._cli.doctor.sights import TroubleKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._budget import ServerLimits
    from sqla_poolguard._cli.doctor.evidence import Evidence
    from sqla_poolguard._cli.doctor.sights import Activity

__all__ = ["RULES", "counted", "demand"]

_CROWDED: Final = 0.8
_MUCH: Final = 0.25
_SHOWN: Final = 4
_NEEDED: Final = ("idle_in_transaction_session_timeout", "statement_timeout")
_FIXES: Final = {
    TroubleKind.REFUSED: "Is the server running, and is this its address? Nobody listens there.",
    TroubleKind.SILENT: "Look at the network between (a firewall that drops what it does not let pass is silent), whether the server hangs "
    "(disk full, out of memory, stopped), and, where a pooler answers there, whether its pool is exhausted (SHOW POOLS).",
    TroubleKind.FULL: "Free slots: end what is idle in transaction (pg_terminate_backend), and compare pool sizes x processes with "
    "max_connections (poolguard size). A superuser still gets in.",
    TroubleKind.POOLER_FULL: "Look at PgBouncer's SHOW POOLS: clients that wait, and for how long; compare max_client_conn with pool sizes x processes.",
    TroubleKind.EXHAUSTED: "Look at PgBouncer's SHOW POOLS and SHOW SERVERS, and at pg_stat_activity behind it: end what is idle in transaction; "
    "shorten holds; a larger pool_size only where the server has idle cores. sv_login that stays above 0 is a server that does not let it in.",
    TroubleKind.DENIED: "Check role, password, database and pg_hba.conf.",
    TroubleKind.UNKNOWN_HOST: "Check the host's name; it cannot be looked up from here.",
}


def demand(evidence: Evidence) -> int | None:
    """Give the connections that the engines for the first one's server can take at the worst moment; None for no limit."""
    server = evidence.settings[0].address.partition("/")[0]
    limits = [one.most for one in engines(evidence) if one.address.partition("/")[0] == server]
    if None in limits:
        return None
    return sum(limit or 0 for limit in limits) * evidence.circumstances.processes.pools


def counted(evidence: Evidence) -> str:
    """Write how the demand was counted."""
    told = evidence.circumstances
    server = evidence.settings[0].address.partition("/")[0]
    own = [one for one in engines(evidence) if one.address.partition("/")[0] == server]
    sizes = " + ".join(shown_size(one.pool_size, one.max_overflow) for one in own)
    by = (
        f"{plural(told.processes.pools, 'process')}" if told.processes.pools == 1 else f"{told.processes.pools} processes at peak"
    )
    how = f" ({told.processes_from})" if told.processes_from else " (nobody said how many: --replicas, --workers)"
    return f"({sizes}) x {by}{how}" if len(own) > 1 else f"{sizes} x {by}{how}"


def _over_budget(evidence: Evidence) -> Iterator[Hit]:
    if evidence.server is None or evidence.server.limits is None or evidence.pooler is not None:
        return
    if not evidence.settings or not evidence.settings[0].bounded:
        return
    wanted, limits = demand(evidence), evidence.server.limits
    if wanted is None:  # another rule's matter
        return
    room, others = limits.room, _not_ours(evidence)
    if wanted > room.slots:
        seen = f"usable are {room.slots} ({_bound(limits, room.bound)})"
        yield Hit(evidence.settings[0].source, f"{counted(evidence)} = {wanted} connections; {seen}")
    elif others is not None and wanted > (left := limits.left(others)).slots:
        usable = limits.allowed(left.bound)
        seen = f"usable are {usable} ({_bound(limits, left.bound)}), of which others have {usable - left.slots} now: {left.slots} are left"
        yield Hit(evidence.settings[0].source, f"{counted(evidence)} = {wanted} connections; {seen}", Severity.WARNING)


def _not_ours(evidence: Evidence) -> Others | None:
    """Count the sessions that are not this application's, as each limit counts them; None where that cannot be told."""
    if evidence.server is None:
        return None
    name, groups = evidence.settings[0].application_name, evidence.server.activity
    if name:
        groups = tuple(group for group in groups if group.application != name)
        return Others(
            server=sum(group.count for group in groups),
            role=sum(group.count for group in groups if group.own_role),
            database=sum(group.in_database for group in groups),
        )
    if len(list(engines(evidence))) > 1:  # they may have other roles, and other databases
        return None
    # whoever has another role, or is in another database, is not this engine
    own = [group for group in groups if group.own_role]
    return Others(
        server=sum(group.count for group in groups) - sum(group.in_database for group in own),
        role=sum(group.count - group.in_database for group in own),
        database=sum(group.in_database for group in groups if not group.own_role),
    )


def _others(evidence: Evidence) -> int | None:
    """Give the sessions that are not this application's; None where that cannot be told."""
    name = evidence.settings[0].application_name
    if evidence.server is None or not name:
        return None
    return sum(group.count for group in evidence.server.activity if group.application != name)


def _bound(limits: ServerLimits, bound: Bound) -> str:
    if bound is Bound.ROLE:
        return f"the role's CONNECTION LIMIT; max_connections is {limits.max_connections}"
    if bound is Bound.DATABASE:
        return f"the database's CONNECTION LIMIT; max_connections is {limits.max_connections}"
    return f"max_connections = {limits.max_connections}, {limits.withheld} of them reserved for others"


def _usable(evidence: Evidence) -> Iterator[Hit]:
    if evidence.server is None or evidence.server.limits is None:
        return
    limits = evidence.server.limits
    if limits.room.slots < limits.max_connections:
        yield Hit(
            place(evidence),
            f"role {evidence.server.role} can have {limits.room.slots} connections ({_bound(limits, limits.room.bound)})",
        )


def _in_use(evidence: Evidence) -> Iterator[Hit]:
    server = evidence.server
    if server is None or server.limits is None or not server.activity:
        return
    open_to_us = server.limits.max_connections - server.limits.withheld
    taken, others = server.connected, _others(evidence)
    groups = ", ".join(_group(group) for group in server.activity[:_SHOWN])
    more = f", and {len(server.activity) - _SHOWN} more kinds" if len(server.activity) > _SHOWN else ""
    seen = f"{taken} of {open_to_us} slots are taken: {groups}{more}"
    if taken >= _CROWDED * open_to_us:
        yield Hit(place(evidence), seen, Severity.WARNING)
    elif (taken if others is None else others) >= _MUCH * open_to_us:
        yield Hit(place(evidence), seen)


def _group(group: Activity) -> str:
    return f"{group.count} x {group.application or 'no name'} ({group.state or 'state hidden'})"


def _idle_in_transaction(evidence: Evidence) -> Iterator[Hit]:
    if evidence.server is None or not evidence.server.idle_in_transaction:
        return
    found = evidence.server.idle_in_transaction
    worst = ", ".join(f"{one.application or 'no name'} (pid {one.pid}) for {one.seconds:.0f} s" for one in found[:_SHOWN])
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    yield Hit(place(evidence), f"{plural(len(found), 'session')}: {worst}{more}")


def _no_timeouts(evidence: Evidence) -> Iterator[Hit]:
    if evidence.server is None:
        return
    limits = evidence.server.timeouts
    off = [name for name, seconds in limits.items() if seconds == 0]
    if limits.get("transaction_timeout"):  # it ends either
        off = [name for name in off if name not in _NEEDED]
    if evidence.settings and evidence.settings[0].command_timeout is not None:
        off = [name for name in off if name != "statement_timeout"]
    if off:
        needed = [name for name in off if name in _NEEDED]
        yield Hit(place(evidence), f"off for this role: {', '.join(off)}", None if needed else Severity.INFO)


def _no_connection(evidence: Evidence) -> Iterator[Hit]:
    trouble = evidence.trouble
    if trouble is None:
        return
    fix = _FIXES.get(trouble.kind)
    yield Hit(place(evidence), f"{trouble.kind}: {trouble.said}", fix=fix)


def _superuser(evidence: Evidence) -> Iterator[Hit]:
    server = evidence.server
    if server is None or server.limits is None or not server.limits.is_superuser:
        return
    yield Hit(place(evidence), f"role {server.role} is a superuser")


RULES: Final = (
    Rule(
        code="PG001",
        title="The pools can ask for more connections than the server has",
        severity=Severity.ERROR,
        looks="Pool sizes x processes at peak is more than the slots that the role can use (max_connections less the reserves that are not "
        "for it, the role's and the database's CONNECTION LIMIT). A warning where it fits only while others have none (each limit counts its own: the role's those of the role). "
        "Not behind a pooler: see PG019.",
        why="At the next peak or rollout connects fail with 53300, in whatever service asks last.",
        fix="Smaller pools, or fewer processes, or a pooler in transaction mode: poolguard size says which. Holds that are shorter need "
        "fewer connections.",
        check=_over_budget,
    ),
    Rule(
        code="PG002",
        title="Not every slot of the server is for this role",
        severity=Severity.INFO,
        looks="The server keeps slots for superusers (or for pg_use_reserved_connections), or the role or the database has a CONNECTION LIMIT.",
        why="A budget that counts to max_connections fails before it gets there.",
        fix="Count with this number.",
        check=_usable,
    ),
    Rule(
        code="PG003",
        title="Much of the server is taken",
        severity=Severity.INFO,
        looks="Others have a quarter of the usable slots; a warning when four fifths are taken, by whomever. "
        "Without pg_read_all_stats the states of other roles' sessions are hidden; their number is not.",
        why="What they have, this service cannot have.",
        fix="Find out who needs how many (application_name tells), and give each role a CONNECTION LIMIT.",
        check=_in_use,
    ),
    Rule(
        code="PG004",
        title="Sessions are idle in transaction",
        severity=Severity.WARNING,
        looks="Sessions that have been idle in transaction for `--idle-in-transaction` seconds (5). Only sessions of the same role, unless "
        "the role has pg_read_all_stats.",
        why="Each holds a connection, and perhaps locks, while its holder awaits something that is not the database; vacuum cannot clean up "
        "behind it.",
        fix="Find the line: GuardedPool logs it (held across an await). Give the connection back before the await: await session.commit(), "
        "or sqla_poolguard.release(session). As a net: idle_in_transaction_session_timeout.",
        check=_idle_in_transaction,
    ),
    Rule(
        code="PG005",
        title="Nothing ends what takes too long",
        severity=Severity.WARNING,
        looks="`idle_in_transaction_session_timeout` or `statement_timeout` is off for this role (a `transaction_timeout`, since PostgreSQL 17, "
        "stands for both; the engine's `command_timeout` for the latter). Information where only `lock_timeout`, `transaction_timeout` or "
        "`client_connection_check_interval` is off.",
        why="One forgotten transaction or one bad query keeps its connection for ever, and so does a query whose client has gone.",
        fix="ALTER ROLE … SET idle_in_transaction_session_timeout = '60s'; likewise statement_timeout, lock_timeout; "
        "client_connection_check_interval = '5s' in postgresql.conf.",
        check=_no_timeouts,
    ),
    Rule(
        code="PG024",
        title="There is no connection to be had",
        severity=Severity.ERROR,
        looks="The doctor's own connection was refused, not answered within 2 s, or the server or the pooler is full. After 0.8 s of "
        "silence PgBouncer's console is asked: if that answers, it is the pool that is exhausted (or the server behind it that hangs). "
        "What the settings tell is reported all the same.",
        why="What happened to the doctor happens to the application when it connects.",
        fix="Check the address, and what the server said; then connect with psql from the same machine.",
        check=_no_connection,
    ),
    Rule(
        code="PG025",
        title="The application is a superuser",
        severity=Severity.WARNING,
        looks="The role of the engine is a superuser. Not behind a pooler that logs in by itself: it is then that role.",
        why="It takes the slots that are reserved for administrators: when the pool has eaten them all, nobody can log in to help. No "
        "CONNECTION LIMIT holds for it.",
        fix="Give the application a role of its own: CREATE ROLE app LOGIN, and GRANT it what it needs.",
        check=_superuser,
    ),
)
