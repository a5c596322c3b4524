"""Why a pool is exhausted, computed from what its connections do, and what helps. Pure: facts in, verdict out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from sqla_poolguard._facts import SECOND, HolderState
from sqla_poolguard._finding import Cause, Verdict

if TYPE_CHECKING:
    from sqla_poolguard._facts import Holder, PoolSnapshot, Site

__all__ = ["deadlocked", "judge"]

_SLOW: Final = 1.0
"""Seconds in the database after which its answers are called slow."""

_LATE: Final = 0.5
"""Share of the time for which a loop is late when it has more to do than it can."""

_REMEDIES: Final[dict[Cause, tuple[str, ...]]] = {
    Cause.DEADLOCK: (
        "use one connection for one unit of work: pass the session on instead of opening a second one inside",
        "commit or close before awaiting a task that needs a connection of its own",
    ),
    Cause.HELD_ACROSS_AWAIT: (
        "end the transaction before the await: `await session.commit()`, or `await sqla_poolguard.release(session)`",
        "do the slow call first, and check out afterwards",
    ),
    Cause.ORPHANED: (
        "close the session in the task that opened it: `async with AsyncSession(...)`",
        'let connections be taken back whose task has finished: `Guard(reclaim="orphaned")`',
    ),
    Cause.LOOP_BLOCKED: ("move the blocking call into a thread: `await asyncio.to_thread(...)`",),
    Cause.DATABASE_UNAVAILABLE: ("see whether the database can be reached, and whether it accepts more connections",),
    Cause.SLOW_DATABASE: (
        "see what the statements wait for: pg_stat_activity, locks, plans; more connections make it slower",
        "set a `statement_timeout`",
    ),
    Cause.UNDERSIZED: ("hold connections for a shorter time, or raise `pool_size` within the server's `max_connections`",),
}

_HINTS: Final = (
    (
        "starlette StreamingResponse",
        "commit or close the session before the `StreamingResponse` begins: it is held until the client has read all",
    ),
    (
        "starlette BackgroundTask",
        "open a session of its own in the background task: the request's is held until the task has ended",
    ),
    (
        "fastapi dependency",
        'give the connection back when the endpoint returns: `Depends(..., scope="function")` (FastAPI 0.121 or later)',
    ),
    ("asyncio gather", "do not share a session with `gather`: run the queries first, or open a session in each task"),
    ("async generator", "do not `async for` over a generator that holds a session: collect the rows first"),
)
"""What is seen in a holder's chain, and the remedy that fits."""


def judge(snapshot: PoolSnapshot, blocked: tuple[float, Site | None] | None, late: float = 0.0) -> Verdict | None:
    """
    Find the one cause that the evidence shows.

    Args:
        snapshot: the pool, its holders looked at just now.
        blocked: seconds for which the event loop has just stood still, and the line that did it; None if it has not.
        late: share of the last seconds for which the event loop was late, however many callbacks it took.

    Returns:
        None if nothing is known: a verdict is not guessed.
    """
    holders, slots = snapshot.holders, snapshot.used + snapshot.connecting
    states = Counter(holder.state for holder in holders if holder.declared is None)
    if blocked is not None and blocked[0] >= _SLOW:
        where = f" at {blocked[1]}" if blocked[1] is not None else ""
        return _verdict(Cause.LOOP_BLOCKED, f"the event loop stood still for {blocked[0]:.1f} s{where}")
    if late >= _LATE:
        return _verdict(Cause.LOOP_BLOCKED, f"the event loop was late for {late:.0%} of the last seconds")
    if snapshot.connecting * 2 > slots:
        return _verdict(Cause.DATABASE_UNAVAILABLE, f"{snapshot.connecting} of {slots} slots are being connected")
    if holders and not any(states[state] for state in HolderState):
        return None
    return _of_holders(holders, states)


def _of_holders(holders: tuple[Holder, ...], states: Counter[HolderState | None]) -> Verdict:
    """Find the cause in what most holders do."""
    if holders and all(holder.state is HolderState.NESTED and holder.awaiting == SECOND for holder in holders):
        return _verdict(Cause.DEADLOCK, f"all {len(holders)} holders wait for this very pool")
    away = states[HolderState.AWAITING] + states[HolderState.NESTED]
    orphaned, working = states[HolderState.ORPHANED], states[HolderState.IN_DATABASE]
    if orphaned and orphaned >= max(away, working):
        return _verdict(Cause.ORPHANED, f"the tasks of {orphaned} of {len(holders)} holders have finished")
    if away and away >= working:
        return _verdict(Cause.HELD_ACROSS_AWAIT, f"{away} of {len(holders)} holders await something else", _hints(holders))
    slow = [holder for holder in holders if holder.state is HolderState.IN_DATABASE and (holder.in_database or 0.0) >= _SLOW]
    if slow and len(slow) * 2 >= len(holders):
        longest = max(holder.in_database or 0.0 for holder in slow)
        return _verdict(
            Cause.SLOW_DATABASE, f"{len(slow)} of {len(holders)} holders wait for the database, up to {longest:.1f} s"
        )
    longest = max((holder.held for holder in holders), default=0.0)
    return _verdict(
        Cause.UNDERSIZED, f"{working} of {len(holders)} holders are in the database; held for {longest:.1f} s at most"
    )


def deadlocked(proof: tuple[str, ...]) -> Verdict:
    """Give the verdict on a pool whose holders all wait for it."""
    return _verdict(Cause.DEADLOCK, f"all {len(proof)} holders wait for this very pool")


def _verdict(cause: Cause, evidence: str, hints: tuple[str, ...] = ()) -> Verdict:
    return Verdict(cause, evidence, (*hints, *_REMEDIES[cause]))


def _hints(holders: tuple[Holder, ...]) -> tuple[str, ...]:
    """Give the remedies that fit the frameworks in which connections are held, the most frequent first."""
    seen = Counter(tag for holder in holders for tag in holder.within)
    return tuple(remedy for tag, remedy in sorted(_HINTS, key=lambda hint: -seen[hint[0]]) if seen[tag])
