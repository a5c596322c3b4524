"""What can be wrong with an engine's settings."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from sqla_poolguard._cli.doctor.finding import Severity
from sqla_poolguard._cli.doctor.rules.rule import Hit, Rule, asyncpg_engines, engines, milliseconds, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._cli.doctor.evidence import Evidence, Settings

__all__ = ["RULES"]

_CACHES: Final = frozenset({0, 100})
"""Sizes of asyncpg's statement cache that say nothing of a hope for speed: off, and its default."""
_NAME_BYTES: Final = 63
_HOSTS: Final = (
    (".proxy-", ".rds.amazonaws.com", 1800.0, "RDS Proxy"),
    ("", ".postgres.database.azure.com", 240.0, "Azure's load balancer"),
)
"""Parts of a host's name, and after how many idle seconds what is in front of it drops a connection."""


def _ping_cost(evidence: Evidence) -> Iterator[Hit]:
    cost, hold = evidence.cost, evidence.circumstances.hold
    if cost is None or cost.stock_ping is None or evidence.pooler is not None:
        return
    for settings in evidence.settings[:1]:
        if settings.driver != "asyncpg" or not settings.pre_ping:
            continue
        taken, trips = (cost.own_ping, "one round trip") if settings.guarded else (cost.stock_ping, "three round trips")
        share = f", {taken / hold:.0%} of a hold of {milliseconds(hold)}" if hold else ""
        yield Hit(
            settings.source,
            f"pool_pre_ping takes {milliseconds(taken)} here ({trips}) at every checkout{share};"
            f" a round trip takes {milliseconds(cost.round_trip)}",
            Severity.WARNING if hold and taken > hold / 10 else None,
        )


def _idle_cut(evidence: Evidence) -> Iterator[Hit]:
    for settings in engines(evidence):
        cut, by = evidence.circumstances.idle_cut, "what is in between (--idle-cut)"
        if cut is None:
            host = settings.address.partition("/")[0].rpartition(":")[0]
            cut, by = next(((cut, by) for part, end, cut, by in _HOSTS if part in host and host.endswith(end)), (None, ""))
        pinged = settings.pre_ping or (cut is not None and settings.ping_after is not None and settings.ping_after < cut)
        if cut is None or pinged or 0 <= settings.pool_recycle < cut:
            continue
        recycle = "never" if settings.pool_recycle < 0 else f"after {settings.pool_recycle:g} s"
        yield Hit(settings.source, f"connections are recycled {recycle}; {by} drops them after {cut:g} s without traffic")


def _patience(evidence: Evidence) -> Iterator[Hit]:
    told = evidence.circumstances
    for settings in engines(evidence):
        wait = settings.max_wait if settings.max_wait is not None else settings.pool_timeout
        if wait is None:
            yield Hit(settings.source, "pool_timeout=None: a request waits for a connection for ever")
            continue
        bounds = (("a request may take", told.deadline), ("a health probe waits", told.probe_timeout))
        for what, bound in bounds:
            if bound is not None and wait >= bound:
                yield Hit(settings.source, f"a request waits {wait:g} s for a connection; {what} {bound:g} s")


def _unbounded(evidence: Evidence) -> Iterator[Hit]:
    for settings in engines(evidence):
        if settings.most is None:
            which = "pool_size=0 is no limit, not no pool" if settings.pool_size == 0 else f"max_overflow={settings.max_overflow}"
            yield Hit(settings.source, which)


def _useless_cache(evidence: Evidence) -> Iterator[Hit]:
    for settings in asyncpg_engines(evidence):
        if settings.statement_cache_size not in _CACHES:
            yield Hit(settings.source, f"statement_cache_size={settings.statement_cache_size}")


def _order_of_timeouts(evidence: Evidence) -> Iterator[Hit]:
    if evidence.server is None:
        return
    server = evidence.server.timeouts.get("statement_timeout") or 0.0
    for settings in evidence.settings[:1]:
        ours = settings.command_timeout
        if ours is not None and (server == 0 or server >= ours):
            says = "is off" if server == 0 else f"is {server:g} s"
            yield Hit(settings.source, f"command_timeout={ours:g}; the server's statement_timeout {says}")


def _several_engines(evidence: Evidence) -> Iterator[Hit]:
    by_server: defaultdict[str, list[Settings]] = defaultdict(list)
    for settings in evidence.settings:
        by_server[settings.address.partition("/")[0]].append(settings)
    for address, there in by_server.items():
        if len(there) > 1:
            limits = [settings.most for settings in there if settings.bounded]
            total = "no limit" if None in limits else str(sum(limit or 0 for limit in limits))
            yield Hit(address, f"{len(there)} engines of this process lead to it, with {total} connections together")


def _no_pool(evidence: Evidence) -> Iterator[Hit]:
    if evidence.pooler is not None or evidence.circumstances.serverless or evidence.server is None:
        return
    cost = evidence.cost
    for settings in evidence.settings[:1]:
        if settings.null:
            measured = f": {milliseconds(cost.connect)} here, and a round trip {milliseconds(cost.round_trip)}" if cost else ""
            yield Hit(settings.source, f"NullPool connects anew for every session{measured}")


def _name(evidence: Evidence) -> Iterator[Hit]:
    for settings in evidence.settings:
        if not settings.arguments_known:
            continue
        name = settings.application_name
        if not name:
            yield Hit(settings.source, "no application_name")
        elif len(name.encode()) > _NAME_BYTES:
            yield Hit(
                settings.source, f"application_name has {len(name.encode())} bytes; the server cuts it off after {_NAME_BYTES}"
            )


def _open_before_fork(evidence: Evidence) -> Iterator[Hit]:
    preload = evidence.circumstances.preload
    for settings in evidence.settings:
        if settings.open_connections and not settings.guarded:
            said = f", and {preload} forks workers after that" if preload else ""
            have = plural(settings.open_connections, "connection")
            yield Hit(
                settings.source, f"{have} open when the module had been imported{said}", Severity.ERROR if preload else None
            )


RULES: Final = (
    Rule(
        code="PG010",
        title="Every checkout pays for a ping",
        severity=Severity.INFO,
        looks="`pool_pre_ping` is on, and a ping was measured. A warning where `--hold` says that it is more than a tenth of a hold.",
        why="On asyncpg SQLAlchemy's ping is BEGIN, an empty statement and ROLLBACK: three round trips before the first query, "
        "also for a connection that was used a moment ago.",
        fix="Ask only connections that were idle: poolclass=GuardedPool with guard=Guard(ping_after=30), and pool_pre_ping off; its ping "
        "is one round trip.",
        check=_ping_cost,
    ),
    Rule(
        code="PG011",
        title="Idle connections are dropped before they are recycled",
        severity=Severity.WARNING,
        looks="`--idle-cut` (or the host's name: RDS Proxy 1800 s, Azure 240 s) says after how long an idle connection is dropped, "
        "`pool_recycle` is not shorter, and nothing pings.",
        why="The next request gets a dead connection, and finds out by an error or a long silence. pool_recycle counts from the connect, "
        "not from the last use.",
        fix="Set pool_recycle below the cut, or let idle connections be asked before use: guard=Guard(ping_after=…) below the cut, "
        "or pool_pre_ping=True.",
        check=_idle_cut,
    ),
    Rule(
        code="PG012",
        title="The wait for a connection outlasts the request",
        severity=Severity.WARNING,
        looks="`pool_timeout` (where a GuardedPool fails fast: `max_wait`) is not shorter than `--deadline` or `--probe-timeout`, or is None.",
        why="The client has gone when the connection comes: work is done for nobody, and the queue grows with it. A probe that waits in the "
        "same queue fails while the application is only busy.",
        fix="Set pool_timeout to a quarter of the deadline at most, or poolclass=GuardedPool with guard=Guard(fail_fast=True).",
        check=_patience,
    ),
    Rule(
        code="PG013",
        title="The pool has no limit",
        severity=Severity.ERROR,
        looks="`pool_size=0`, or `max_overflow` below 0.",
        why="A burst opens connections until the server refuses everybody, other services and the administrator included.",
        fix="Give both a number. For no pool at all it is poolclass=NullPool.",
        check=_unbounded,
    ),
    Rule(
        code="PG014",
        title="statement_cache_size does not make SQLAlchemy faster",
        severity=Severity.WARNING,
        looks="asyncpg's `statement_cache_size` is neither 0 nor its default.",
        why="SQLAlchemy prepares statements itself and keeps them in a cache of its own; asyncpg's has no part in it.",
        fix="Remove it. The cache that counts is prepared_statement_cache_size (100 by default, for each connection), set in the URL.",
        check=_useless_cache,
    ),
    Rule(
        code="PG015",
        title="The client gives up before the server does",
        severity=Severity.INFO,
        looks="`command_timeout` is set, and the server's `statement_timeout` is off or not shorter.",
        why="When command_timeout strikes, the connection is thrown away, and a new one has to be opened. When statement_timeout does, the "
        "server ends the statement and the connection stays.",
        fix="Set statement_timeout below command_timeout: ALTER ROLE … SET statement_timeout = '…'.",
        check=_order_of_timeouts,
    ),
    Rule(
        code="PG016",
        title="Several engines of one process lead to one server",
        severity=Severity.WARNING,
        looks="After the import the process has more than one engine for the same host and port.",
        why="Each has a pool of its own: their limits add up in every process, and one can be exhausted while the other is idle.",
        fix="Make one engine when the process starts, and share it; never one for each request. Where two are meant (another role, another "
        "database), count both.",
        check=_several_engines,
    ),
    Rule(
        code="PG017",
        title="A connect for every session",
        severity=Severity.WARNING,
        looks="`NullPool`, no pooler in between, and not a function as a service (`AWS_LAMBDA_FUNCTION_NAME` and the like).",
        why="The server starts a process for every connect, and the request waits for it.",
        fix="Use a pool: poolclass=GuardedPool, with a small pool_size.",
        check=_no_pool,
    ),
    Rule(
        code="PG018",
        title="The server does not know whose connections these are",
        severity=Severity.INFO,
        looks="No `application_name` is sent, or one of more than 63 bytes.",
        why="In pg_stat_activity, in the server's log and in this report the connections of all services look alike.",
        fix='connect_args={"server_settings": {"application_name": "orders"}}; every pooler lets it pass.',
        check=_name,
    ),
    Rule(
        code="PG023",
        title="Connections are open before the process forks",
        severity=Severity.WARNING,
        looks="The import of the module opens connections, and the pool is not a GuardedPool. An error where GUNICORN_CMD_ARGS says `--preload`.",
        why="Forked workers share the socket: two of them read each other's answers. dispose() in a child closes the parent's.",
        fix="Connect in the application's lifespan. Where the import must connect: engine.sync_engine.dispose(close=False) first thing in "
        "the child. A GuardedPool leaves its parent's connections alone by itself.",
        check=_open_before_fork,
    ),
)
