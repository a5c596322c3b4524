"""What is ready to paste: the engine, and a PgBouncer. Every text it gives is run by a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqla_poolguard._plan import Plan

__all__ = ["engine", "pgbouncer"]

_SHORTEST: Final = 0.1
"""Seconds; 0 would be no limit."""
_SPARE: Final = 10
"""Clients beyond the pools' own: a person, a migration."""

_ENGINE: Final = """\
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import GuardedPool

engine = create_async_engine(
    "{url}",
    poolclass=GuardedPool,
    pool_size={size},
    max_overflow=0,
    pool_timeout={timeout},
{more})
"""
_DIRECT: Final = "postgresql+asyncpg://app@localhost:5432/orders"
_POOLED: Final = "postgresql+asyncpg://app@localhost:6432/orders"
_NO_PREPARED: Final = '    connect_args={"statement_cache_size": 0, "prepared_statement_name_func": lambda: ""},\n'
"""All three are needed, with the one in the URL: of each two, some version of asyncpg fails, or gives the answers of other statements."""

_PGBOUNCER: Final = """\
[databases]
orders = host=127.0.0.1 port=5432 dbname=orders

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
pool_mode = transaction
; towards the server: for each pair of user and database, and for each database at most
default_pool_size = {shared}
max_db_connections = {usable}
; towards the application: {pools} of {size}, and some to spare
max_client_conn = {clients}
; seconds that a query may wait for a connection, after those that it waited for in the pool
query_wait_timeout = {wait}
"""
_PREPARED: Final = """\
; prepared statements, since PgBouncer 1.21: without them asyncpg gives errors and wrong results
max_prepared_statements = 200
"""


def engine(plan: Plan, *, pooler: bool = False, prepared: bool = True) -> str:
    """
    Give the code that makes the engine.

    Args:
        plan: with the sizes.
        pooler: whether PgBouncer is between, in transaction mode.
        prepared: whether that knows prepared statements.
    """
    old = pooler and not prepared
    url = (_POOLED if pooler else _DIRECT) + ("?prepared_statement_cache_size=0" if old else "")
    timeout = f"{plan.target.pool_timeout:g}"
    return _ENGINE.format(
        url=url, size=plan.size, timeout=timeout if "." in timeout else f"{timeout}.0", more=_NO_PREPARED if old else ""
    )


def pgbouncer(plan: Plan, *, prepared: bool = True) -> str:
    """
    Give the configuration of a PgBouncer.

    Args:
        plan: with the sizes.
        prepared: whether it knows prepared statements in transaction mode (PgBouncer 1.21 and newer).
    """
    timeout = plan.target.pool_timeout
    text = _PGBOUNCER.format(
        shared=max(min(plan.shared, plan.service.usable), 1),
        usable=max(plan.service.usable, 1),
        pools=plan.service.processes.pools,
        size=plan.size,
        clients=plan.total + _SPARE,
        wait=f"{max(min(timeout, plan.target.deadline - timeout), _SHORTEST):.3g}",
    )
    return text + (_PREPARED if prepared else "")
