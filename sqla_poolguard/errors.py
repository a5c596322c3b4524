"""What a caller may catch, and the message that tells what to do. Built from facts; it looks into no pool."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy.exc

from sqla_poolguard._facts import HolderState, Reason

if TYPE_CHECKING:
    from sqla_poolguard._facts import Holder, PoolSnapshot
    from sqla_poolguard._finding import Verdict

__all__ = ["CheckoutError", "CheckoutRejected", "CheckoutTimeout"]

_SITES_SHOWN = 10
_STATES = {
    HolderState.IN_DATABASE: "in the database",
    HolderState.RUNNING: "running",
    HolderState.ORPHANED: "its task has finished",
}


class CheckoutError(sqlalchemy.exc.TimeoutError):
    """Superclass of the errors of a checkout. Never raised itself."""

    code = "3o7r"
    status_code: ClassVar[int] = 503
    """The HTTP status that fits."""
    title: ClassVar[str] = "No database connection"

    def __init__(
        self,
        *,
        reason: Reason,
        waited: float,
        retry_after: float | None,
        snapshot: PoolSnapshot,
        verdict: Verdict | None = None,
    ) -> None:
        """
        Make the error and its message.

        Args:
            reason: why there was no connection.
            waited: seconds the caller had waited.
            retry_after: seconds after which a retry has a fair chance; None if nothing is known.
            snapshot: the pool at this moment.
            verdict: why it is exhausted.
        """
        self.reason = str(reason)
        """Why there was no connection, one of the `Reason` values."""
        self.waited = waited
        """Seconds the caller had waited."""
        self.retry_after = retry_after
        """Seconds after which a retry has a fair chance; None if nothing is known."""
        self.snapshot = snapshot
        """The pool at that moment, its holders included."""
        self.verdict = verdict
        """Why it was exhausted, on what evidence, and what helps."""
        super().__init__(_message(self.reason, waited, snapshot, verdict), code=self.code)

    def to_problem(self) -> dict[str, Any]:
        """
        Describe the error for a client, as a problem document (RFC 9457), without telling it internals.

        Returns:
            `type`, `title`, `status`, `detail`, `reason`, and `retry_after` in whole seconds where it is known.
        """
        problem: dict[str, Any] = {
            "type": f"tag:sqla-poolguard,2026:{self.reason}",
            "title": self.title,
            "status": self.status_code,
            "detail": "The service is busy and could not get a database connection in time.",
            "reason": self.reason,
        }
        if self.retry_after is not None:
            problem["retry_after"] = max(1, math.ceil(self.retry_after))
        return problem

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the facts; the message is made from them again."""
        return _restore, (type(self), self.reason, self.waited, self.retry_after, self.snapshot, self.verdict)


class CheckoutTimeout(CheckoutError):  # noqa: N818 - named as SQLAlchemy names its own
    """Waited for a connection in vain: `pool_timeout` passed while it queued, connected or pinged."""

    title = "No database connection in time"


class CheckoutRejected(CheckoutError):  # noqa: N818 - likewise
    """Was not allowed to wait for a connection, and knows it at once."""

    title = "Too many requests wait for a database connection"


def _restore(
    kind: type[CheckoutError], reason: str, waited: float, retry: float | None, snap: PoolSnapshot, verdict: Verdict | None
) -> CheckoutError:
    return kind(reason=Reason(reason), waited=waited, retry_after=retry, snapshot=snap, verdict=verdict)


def _message(reason: str, waited: float, snapshot: PoolSnapshot, verdict: Verdict | None) -> str:
    """Say what happened, in figures, why, who holds the connections, and what helps."""
    if reason == Reason.QUEUE_FULL:
        return f"no connection: the queue is full: {_described(snapshot, verdict)}"
    if reason == Reason.DEADLOCK:
        return f"no connection, after {waited:.2f} s, and never would be: {_described(snapshot, verdict)}"
    return f"no connection after {waited:.2f} s: {_described(snapshot, verdict)}"


_last: tuple[PoolSnapshot, Verdict | None, str] | None = None
"""What was described last: a crowd that is turned away together shares it, since a server that refuses must have time for the others."""


def _described(snapshot: PoolSnapshot, verdict: Verdict | None) -> str:
    """Describe the pool at that moment, once for all errors that share a snapshot."""
    global _last  # noqa: PLW0603 - one step of the interpreter: threads may do it twice, but not mix it
    last = _last
    if last is not None and last[0] is snapshot and last[1] is verdict:
        return last[2]
    text = _describe(snapshot, verdict)
    _last = snapshot, verdict, text
    return text


def _describe(snapshot: PoolSnapshot, verdict: Verdict | None) -> str:
    lines = [str(snapshot)]
    if verdict is not None:
        lines.append(f"verdict: {verdict}")
    rows = _by_site(snapshot.holders)
    sites = [str(holders[0].site or "(unknown)") for holders in rows[:_SITES_SHOWN]]
    width = max(map(len, sites), default=0)
    lines += [f"  {len(holders):>3} x  {site:<{width}}   {_doing(holders)}" for site, holders in zip(sites, rows, strict=False)]
    if len(rows) > _SITES_SHOWN:
        rest = sum(len(holders) for holders in rows[_SITES_SHOWN:])
        lines.append(f"  {rest:>3} x  at {len(rows) - _SITES_SHOWN} other lines")
    if verdict is not None and verdict.remedies:
        lines.append("remedies:")
        lines += [f"  {number}. {remedy}" for number, remedy in enumerate(verdict.remedies, 1)]
    return "\n".join(lines)


def _by_site(holders: tuple[Holder, ...]) -> list[list[Holder]]:
    """Group holders by the line that holds and what it awaits; most connections first, then the longest hold."""
    groups: dict[object, list[Holder]] = {}
    for holder in holders:
        groups.setdefault((holder.site, holder.state, holder.current, holder.awaiting, holder.declared), []).append(holder)
    return sorted(groups.values(), key=lambda group: (-len(group), -max(holder.held for holder in group)))


def _doing(holders: list[Holder]) -> str:
    """Say for how long some connections have been held at one line, and what their holders do."""
    first = max(holders, key=lambda holder: holder.held)
    held = f"held {first.held:.1f} s"
    if first.in_database is not None:
        held += f" (database {first.in_database:.1f} s)"
    if first.declared is not None:
        return f"{held}   declared: {first.declared}"
    if first.state is None:
        return held
    what = f"awaiting {first.awaiting}" if first.awaiting is not None else _STATES.get(first.state, "")
    where = f" at {first.current}" if first.current is not None and first.current != first.site else ""
    return f"{held}   {what}{where}".rstrip()
