"""Find out, without any rights, whether there is a pooler between us and the server, of what kind, and what it does to statements."""

from __future__ import annotations

import asyncio
import secrets as chance
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._cli.doctor.connecting import NoConnection, ask
from sqla_poolguard._cli.doctor.sights import Mode, Pooler

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import asyncpg

__all__ = ["Traces", "detect", "read_traces"]

_SETTING: Final = "poolguard.doctor"
_RENAMED: Final = "PGBOUNCER_"
_TRIES: Final = 3
_TURN: Final = 0.6
"""Seconds for a look with a second client."""
_UNSURE: Final = (
    "what one client had set, the next one found, but two at one time were not seen to share a process: transaction mode, or session mode "
    "with an empty server_reset_query"
)


@dataclass(frozen=True, slots=True)
class Traces:
    """What a first connection left on its server connection, to be looked for by the next."""

    pooler: Pooler
    backend: int
    token: str


async def detect(opened: asyncpg.Connection[Any]) -> Traces | None:
    """
    Tell whether there is a pooler.

    When a client connects, the server says which process of its own serves it; a pooler says something of its own instead.

    Args:
        opened: a connection, in a transaction.
    """
    told = opened.get_server_pid()
    backend = int((await ask(opened, "SELECT pg_backend_pid()"))[0][0])
    if backend == told:
        return None
    # PgBouncer >= 1.21 with max_prepared_statements gives clients' statements names of its own
    name = f"poolguard_{chance.token_hex(6)}"
    statement = await opened.prepare("SELECT 1", name=name)  # kept: it would be closed with its object
    names = [row[0] for row in await ask(opened, "SELECT name FROM pg_catalog.pg_prepared_statements")]
    renames = True if any(one.startswith(_RENAMED) for one in names) else False if name in names else None
    del statement
    pooler = Pooler(proof=f"the connection was told process {told}, and is served by process {backend}", renames=renames)
    return Traces(pooler, backend, name)


async def leave(opened: asyncpg.Connection[Any], traces: Traces) -> Traces:
    """
    Leave a mark, which a pooler in session mode wipes out when this client has gone; gives what can be told before that.

    Args:
        opened: the same connection, outside of a transaction.
        traces: what `detect` gave.
    """
    async with opened.transaction():  # else what is asked could be split between two server connections
        backend = (
            await ask(opened, "SELECT pg_backend_pid() FROM set_config($1::text, $2::text, false)", _SETTING, traces.token)
        )[0][0]
    async with opened.transaction():
        again, found = (await ask(opened, "SELECT pg_backend_pid(), current_setting($1::text, true)", _SETTING))[0]
    proof = ""
    if len({traces.backend, backend, again}) > 1:
        proof = "the transactions of one client were served by several processes"
    elif found != traces.token:
        proof = "what a client had set was wiped out between its own transactions"
    pooler = _with(traces.pooler, Mode.TRANSACTION, proof) if proof else traces.pooler
    return Traces(pooler, again, traces.token)


async def read_traces(traces: Traces, again: Callable[[], AbstractAsyncContextManager[asyncpg.Connection[Any]]]) -> Pooler:
    """
    Tell the pooler's mode by what the next client finds; a second one is there at the same time only where that tells nothing.

    Args:
        traces: what the first one left. It is closed.
        again: opens another.
    """
    pooler = traces.pooler
    if pooler.mode is not Mode.UNKNOWN:
        return pooler
    if pooler.renames:
        return _with(pooler, Mode.TRANSACTION, "it gives prepared statements names of its own, which it does in this mode only")
    for _ in range(_TRIES):
        async with again() as opened:
            async with opened.transaction():
                backend = int((await ask(opened, "SELECT pg_backend_pid()"))[0][0])
                if backend != traces.backend:
                    continue
                found = (await ask(opened, "SELECT current_setting($1::text, true)", _SETTING))[0][0]
                if found != traces.token:
                    return _with(pooler, Mode.SESSION, "what one client had set was wiped out before the next one came")
                await opened.execute(f"RESET {_SETTING}")
            return await _beside(pooler, backend, again)
    return pooler


async def _beside(
    pooler: Pooler, backend: int, again: Callable[[], AbstractAsyncContextManager[asyncpg.Connection[Any]]]
) -> Pooler:
    """
    Tell transaction mode from a session mode that wipes out nothing (`server_reset_query` is empty).

    Args:
        pooler: what is known of it.
        backend: the process that served a client that is still there, outside of a transaction.
        again: opens a connection beside it.
    """
    for _ in range(_TRIES - 1):
        try:
            async with asyncio.timeout(_TURN), again() as other, other.transaction():
                served = int((await ask(other, "SELECT pg_backend_pid()"))[0][0])
        except (NoConnection, TimeoutError):  # in session mode it may have to wait until the first one has gone
            break
        if served == backend:
            return _with(pooler, Mode.TRANSACTION, "two clients that were there at one time were served by one process")
    return _with(pooler, Mode.UNKNOWN, _UNSURE)


def _with(pooler: Pooler, mode: Mode, proof: str) -> Pooler:
    return Pooler(proof=pooler.proof, mode=mode, mode_proof=proof, renames=pooler.renames)
