"""Gather all there is to see of a server in a few seconds, over one connection at a time. What does not answer in time is left out, and noted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from sqla_poolguard._cli.doctor import costs, pooler, server
from sqla_poolguard._cli.doctor.connecting import POOLER_FULL, UNSUPPORTED, NoConnection, connection
from sqla_poolguard._cli.doctor.console import ask_console
from sqla_poolguard._cli.doctor.sights import Mode, Pooler, Trouble, TroubleKind
from sqla_poolguard._cli.doctor.silence import LISTEN, ask_in_silence, explained
from sqla_poolguard._cli.doctor.stopwatch import WatchingLoop
from sqla_poolguard._cli.doctor.trouble import said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqla_poolguard._cli.doctor.sights import Cost, Server

__all__ = ["Gathered", "gather"]

PATIENCE: Final = 3.2
"""Seconds for everything together; with what Python needs to start it stays below 5."""
_BY_STATEMENT: Final = "statement pooling mode"
_NO_HARM: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


@dataclass(slots=True)
class Gathered:
    """What was seen of a server."""

    server: Server | None = None
    trouble: Trouble | None = None
    pooler: Pooler | None = None
    cost: Cost | None = None
    unseen: list[str] = field(default_factory=list)


def gather(arguments: Mapping[str, Any], idle_seconds: float, secrets: list[str]) -> Gathered:
    """
    Look at a server; blocks for `PATIENCE` seconds at most.

    Args:
        arguments: of the driver, as the engine gives them.
        idle_seconds: from which a session idle in transaction is noted.
        secrets: what must never be shown.
    """
    gathered = Gathered()

    async def look() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, WatchingLoop)  # noqa: S101 - for the type checker; it is made below
        asked = asyncio.create_task(ask_in_silence(loop, lambda: gathered.server is None, arguments, secrets))
        listen = LISTEN
        try:
            async with asyncio.timeout(PATIENCE):
                await _look(loop, gathered, dict(arguments), idle_seconds, secrets)
        except TimeoutError:
            listen = 0.0
            gathered.unseen.append(f"what the server had not told after {PATIENCE:g} s")
            if gathered.server is None and gathered.trouble is None:
                gathered.trouble = _stalled()
        if gathered.trouble is not None and gathered.trouble.kind is TroubleKind.SILENT:  # a pooler's console may know why
            await asyncio.wait({asked}, timeout=listen)
            if asked.done():
                gathered.trouble, found = explained(gathered.trouble, arguments, asked.result())
                gathered.pooler = gathered.pooler or found
        asked.cancel()

    with asyncio.Runner(loop_factory=WatchingLoop) as runner:
        runner.run(look())
    return gathered


async def _look(
    loop: WatchingLoop, gathered: Gathered, arguments: dict[str, Any], idle_seconds: float, secrets: list[str]
) -> None:
    rejected = None
    try:
        traces = await _first(loop, gathered, arguments, idle_seconds, secrets)
    except NoConnection as error:
        if UNSUPPORTED not in error.trouble.said:
            gathered.trouble = error.trouble
            return
        rejected = error.trouble.said
        gathered.pooler = Pooler(proof="it refused what the engine sends when it connects", rejected=rejected)
        arguments = {name: value for name, value in arguments.items() if name != "server_settings"}
        try:
            traces = await _first(loop, gathered, arguments, idle_seconds, secrets)
        except NoConnection as again:
            gathered.trouble = again.trouble
            return
    if traces is None:
        return
    gathered.pooler = replace(traces.pooler, rejected=rejected)
    console = asyncio.create_task(ask_console(loop, arguments, secrets))
    try:
        found = await pooler.read_traces(traces, lambda: connection(arguments, secrets))
    except (NoConnection, TimeoutError, *_NO_HARM) as error:
        found = traces.pooler
        gathered.unseen.append(f"when the pooler takes server connections back ({said(error, secrets)})")
    gathered.pooler = replace(found, rejected=rejected)
    answer = await console
    if not isinstance(answer, str):
        figures, mode = answer
        proof = found.mode_proof or "its console says so"
        gathered.pooler = replace(gathered.pooler, console=figures, mode=mode, mode_proof=proof)
        return
    gathered.pooler = replace(gathered.pooler, no_console=answer)
    gathered.unseen.append(f"the pooler's own figures ({answer})")
    if found.mode is Mode.UNKNOWN:
        why = found.mode_proof or "others were faster to get ours"
        gathered.unseen.append(f"when the pooler takes server connections back: {why}")


async def _first(
    loop: WatchingLoop, gathered: Gathered, arguments: Mapping[str, Any], idle_seconds: float, secrets: list[str]
) -> pooler.Traces | None:
    """Look through the first connection, the only one where there is no pooler."""
    async with connection(arguments, secrets) as opened:
        phases = loop.phases()
        try:
            async with opened.transaction(readonly=True):
                traces = await pooler.detect(opened)
                gathered.server = await server.look_at(opened, idle_seconds, gathered.unseen.append)
            if traces is not None:
                traces = await pooler.leave(opened, traces)
            gathered.cost = await costs.measure(opened, phases, loop.tls, pooled=traces is not None)
        except TimeoutError:
            gathered.trouble = _stalled()
            return None
        except _NO_HARM as error:
            if gathered.server is None and isinstance(error.__context__, TimeoutError):  # what was to be tidied up after it
                gathered.trouble = _stalled()
                return None
            if any(words in str(error) for words in POOLER_FULL):
                gathered.trouble = Trouble(kind=TroubleKind.POOLER_FULL, said=said(error, secrets), seconds=0.0)
                return None
            if _BY_STATEMENT in str(error):
                gathered.pooler = Pooler(proof="it refused a transaction", mode=Mode.STATEMENT, mode_proof=said(error, secrets))
            gathered.unseen.append(f"the rest of the server ({type(error).__name__}: {said(error, secrets)})")
            return None
        return traces


def _stalled() -> Trouble:
    words = "it took the connection, and then did not answer"
    return Trouble(kind=TroubleKind.SILENT, said=words, seconds=0.0)
