"""Why nobody answers: a pooler that has no server connection for us looks like a server that hangs, but its console answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._cli.doctor.console import ask_console, database_of
from sqla_poolguard._cli.doctor.sights import Pooler, TroubleKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqla_poolguard._cli.doctor.sights import Console, Mode, Trouble
    from sqla_poolguard._cli.doctor.stopwatch import WatchingLoop

    _Answer = tuple[Console, Mode] | str | None

__all__ = ["LISTEN", "ask_in_silence", "explained"]

_SILENCE: Final = 0.8
"""Seconds without an answer, after which a pooler's console is asked why."""
LISTEN: Final = 0.2
"""Seconds that its answer may come later than we gave up."""
_NOT_ALLOWED: Final = "not allowed"
"""What PgBouncer says to whom it does not let to its console. PostgreSQL says that there is no database of that name."""
_THERE: Final = "PgBouncer's console answers there"
_EITHER: Final = "a PgBouncer answers there: its pool is exhausted, or the server behind it hangs; its console says which to those who may use it"


async def ask_in_silence(
    loop: WatchingLoop, silent: Callable[[], bool], arguments: Mapping[str, Any], secrets: Sequence[str]
) -> _Answer:
    """
    Ask the console of a pooler while our question to the server has no answer, so that our client is still in its queue.

    Args:
        loop: that watches the connection.
        silent: tells whether there is no answer.
        arguments: of the driver.
        secrets: what must not be in an answer.

    Returns:
        What it answered; None where there was no reason to ask, or nobody took the connection.
    """
    await asyncio.sleep(_SILENCE)
    return await ask_console(loop, arguments, secrets) if silent() and loop.reached else None


def explained(trouble: Trouble, arguments: Mapping[str, Any], answer: _Answer) -> tuple[Trouble, Pooler | None]:
    """
    Say what the silence is, as far as a console's answer tells.

    Args:
        trouble: the silence.
        arguments: of the driver.
        answer: what `ask_in_silence` gave.

    Returns:
        The trouble, and the pooler that is there.
    """
    if isinstance(answer, str) and answer.endswith(_NOT_ALLOWED):
        return replace(trouble, said=f"{trouble.said}; {_EITHER}"), Pooler(proof=_THERE, no_console=answer)
    if answer is None or isinstance(answer, str):
        return trouble, None
    console, mode = answer
    pooler = Pooler(proof=_THERE, mode=mode, mode_proof="its console says so", console=console)
    database = database_of(arguments)
    if database in console.databases and console.databases[database].paused:
        return replace(trouble, said=f"{trouble.said}; PgBouncer has paused the database (RESUME {database})"), pooler
    waiting = [pool for pool in console.pools if pool.database == database and pool.waiting]
    own = next((pool for pool in waiting if pool.user == arguments.get("user")), waiting[0] if waiting else None)
    if own is None or own.logging_in:
        return replace(trouble, said=f"{trouble.said}; PgBouncer answers, the server behind it does not"), pooler
    others = f"{own.waiting - 1} {'client waits' if own.waiting == 2 else 'clients wait'} beside the doctor"  # noqa: PLR2004
    said = f"PgBouncer has no server connection to give ({own.database}/{own.user}: {own.busy} busy, none free; {others})"
    return replace(trouble, kind=TroubleKind.EXHAUSTED, said=said), pooler
