"""Open the doctor's own connection with asyncpg, and say why there is none. Everything here ends in time, whatever the server does."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from sqla_poolguard._cli.doctor.sights import Trouble, TroubleKind
from sqla_poolguard._cli.doctor.stopwatch import WatchingLoop
from sqla_poolguard._cli.doctor.trouble import said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

__all__ = ["POOLER_FULL", "UNSUPPORTED", "NoConnection", "ask", "connection"]

CONNECT_SECONDS: Final = 2.0
"""For a connect; PostgreSQL on the same continent needs a tenth of it."""
QUERY_SECONDS: Final = 1.5
"""For one query."""
CLOSE_SECONDS: Final = 0.3
UNSUPPORTED: Final = "unsupported startup parameter"
_FULL: Final = "53300"
_DENIED: Final = ("28", "3D")
POOLER_FULL: Final = ("no more connections allowed", "query_wait_timeout", "max_client_conn")


class NoConnection(Exception):  # noqa: N818 - what there is, not what went wrong
    """There is no connection; `trouble` says why."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.said)
        self.trouble = trouble


@asynccontextmanager
async def connection(arguments: Mapping[str, Any], secrets: Sequence[str]) -> AsyncIterator[asyncpg.Connection[Any]]:
    """
    Open a connection for the block, as the engine would but for the time it may take.

    Raises:
        NoConnection: there is none.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, WatchingLoop):
        loop.begin()
    given = {**arguments, "timeout": CONNECT_SECONDS, "command_timeout": QUERY_SECONDS}
    began = time.perf_counter()
    try:
        opened = await asyncpg.connect(**given)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the driver, the system and whatever the arguments hold may raise anything
        trouble = _trouble(error, time.perf_counter() - began, secrets)
        if trouble.kind is TroubleKind.SILENT and isinstance(loop, WatchingLoop) and loop.reached:
            trouble = replace(trouble, said=f"{trouble.said}, though something took the connection")
        raise NoConnection(trouble) from None
    try:
        yield opened
    finally:
        try:
            await opened.close(timeout=CLOSE_SECONDS)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            opened.terminate()


async def ask(opened: asyncpg.Connection[Any], query: str, *values: Any) -> list[asyncpg.Record]:
    """Run a query as a statement without a name, which harms nobody behind a pooler."""
    statement = await opened.prepare(query, name="")
    rows: list[asyncpg.Record] = await statement.fetch(*values)
    return rows


def _trouble(error: Exception, seconds: float, secrets: Sequence[str]) -> Trouble:
    state = str(getattr(error, "sqlstate", "") or "")
    text = said(error, secrets)
    if state == _FULL:
        kind = TroubleKind.FULL
    elif any(words in text for words in POOLER_FULL):
        kind = TroubleKind.POOLER_FULL
    elif state.startswith(_DENIED):
        kind = TroubleKind.DENIED
    elif isinstance(error, TimeoutError):
        kind, text = TroubleKind.SILENT, f"no answer within {CONNECT_SECONDS:g} s"
    elif isinstance(error, socket.gaierror):
        kind = TroubleKind.UNKNOWN_HOST
    elif isinstance(error, ConnectionRefusedError) or "Connect call failed" in text or "Multiple exceptions" in text:
        kind = TroubleKind.REFUSED
    else:
        kind = TroubleKind.OTHER
    return Trouble(kind=kind, said=text, seconds=seconds)
