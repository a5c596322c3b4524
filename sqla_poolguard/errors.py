"""What a caller may catch, and the message that tells what to do. Built from facts; it looks into no pool."""

from __future__ import annotations

import math
import pickle
import re
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy.exc

from sqla_poolguard._facts import HolderState, Reason

if TYPE_CHECKING:
    from sqla_poolguard._facts import Downtime, Holder, PoolSnapshot
    from sqla_poolguard._finding import Verdict

__all__ = ["CheckoutError", "CheckoutRejected", "CheckoutTimeout", "DatabaseUnavailable", "NoConnectionError"]

_SITES_SHOWN = 10
_CAUSE_SHOWN = 200
_WAIT_SHOWN = 0.005
_SECRETS = re.compile(r"(?<=://)\S+(?=@)|(?<=password=)\S+", re.IGNORECASE)
_STATES = {
    HolderState.IN_DATABASE: "in the database",
    HolderState.RUNNING: "running",
    HolderState.ORPHANED: "its task has finished",
}


class NoConnectionError(Exception):
    """Superclass of the errors that are to become a 503. Never raised itself."""

    status_code: ClassVar[int] = 503
    """The HTTP status that fits."""
    title: ClassVar[str] = "No database connection"
    detail_for_clients: ClassVar[str] = "The service is busy and could not get a database connection in time."

    reason: str
    """Why there was no connection, one of the `Reason` values."""
    waited: float
    """Seconds the caller had waited."""
    retry_after: float | None
    """Seconds after which a retry has a fair chance; None if nothing is known."""
    snapshot: PoolSnapshot
    """The pool at that moment, its holders included."""

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
            "detail": self.detail_for_clients,
            "reason": self.reason,
        }
        if self.retry_after is not None:
            problem["retry_after"] = max(1, math.ceil(self.retry_after))
        return problem


class CheckoutError(NoConnectionError, sqlalchemy.exc.TimeoutError):
    """Superclass of the errors of a checkout. Never raised itself."""

    code = "3o7r"

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
        self.waited = waited
        self.retry_after = retry_after
        self.snapshot = snapshot
        self.verdict = verdict
        """Why it was exhausted, on what evidence, and what helps."""
        super().__init__(_message(self.reason, waited, snapshot, verdict), code=self.code)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the facts; the message is made from them again."""
        return _restore, (type(self), self.reason, self.waited, self.retry_after, self.snapshot, self.verdict)


class CheckoutTimeout(CheckoutError):  # noqa: N818 - named as SQLAlchemy names its own
    """Waited for a connection in vain: `pool_timeout` passed while it queued, connected or pinged."""

    title = "No database connection in time"


class CheckoutRejected(CheckoutError):  # noqa: N818 - likewise
    """Was not allowed to wait for a connection, and knows it at once."""

    title = "Too many requests wait for a database connection"


class DatabaseUnavailable(NoConnectionError, sqlalchemy.exc.OperationalError):  # noqa: N818 - likewise
    """
    No connection lives and the database cannot be reached, which the pool knows without another try.

    `orig` and `__cause__` are the last error of connecting.
    """

    title = "The database cannot be reached"
    detail_for_clients = "The service cannot reach its database at the moment."

    def __init__(
        self,
        *,
        cause: BaseException,
        downtime: Downtime,
        waited: float,
        retry_after: float | None,
        snapshot: PoolSnapshot,
        reason: Reason = Reason.UNAVAILABLE,
    ) -> None:
        """
        Make the error and its message.

        Args:
            cause: the last error of connecting.
            downtime: what is known of the outage.
            waited: seconds the caller had waited.
            retry_after: seconds after which a retry has a fair chance; None if nothing is known.
            snapshot: the pool at this moment.
            reason: why there was no connection.
        """
        self.reason = str(reason)
        self.waited = waited
        self.retry_after = retry_after
        self.snapshot = snapshot
        self.downtime = downtime
        """What is known of the outage."""
        # not DBAPIError's, which makes a message of its own from the cause
        sqlalchemy.exc.StatementError.__init__(
            self, _unreachable(cause, downtime, waited, snapshot), None, None, cause, hide_parameters=True, code=self.code
        )
        self.__cause__ = cause

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the facts and the message; a cause that cannot be pickled becomes an exception that says the same."""
        return _revive, (type(self), self.args, {**self.__dict__, "orig": _portable(self.orig)})


def _revive(kind: type[DatabaseUnavailable], args: tuple[Any, ...], state: dict[str, Any]) -> DatabaseUnavailable:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    error.__cause__ = error.orig
    return error


def _portable(cause: BaseException | None) -> BaseException:
    """Give an error that comes out of a pickle as it went in."""
    try:
        twin = pickle.loads(pickle.dumps(cause))  # noqa: S301 - made in the line itself
    except Exception:  # noqa: BLE001 - whatever the driver's class does when it is pickled
        twin = None
    if cause is not None and type(twin) is type(cause) and str(twin) == str(cause):
        return cause
    return RuntimeError(_named(cause))


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


def _unreachable(cause: BaseException, downtime: Downtime, waited: float, snapshot: PoolSnapshot) -> str:
    """Say that nobody is there, on what evidence, and when that is looked at again."""
    after = f" after {waited:.2f} s" if waited >= _WAIT_SHOWN else ""
    if downtime.error_age is None:
        evidence = f"no answer yet: {_named(cause)}"
    else:
        times = "once" if downtime.fails == 1 else f"{downtime.fails} times"
        evidence = f"last error {downtime.error_age:.1f} s ago: {_named(cause)}; tried {times} in {downtime.lasted:.1f} s"
    soon = "; an attempt is under way" if downtime.next_try is None else f"; next attempt in {downtime.next_try:.1f} s"
    return f"no connection{after}: the database cannot be reached: {snapshot}; {evidence}{soon}"


def _named(cause: BaseException | None) -> str:
    """Name an error, with the first line of what it says, and no password."""
    try:
        said = str(cause).strip().partition("\n")[0]
    except Exception as error:  # noqa: BLE001 - a driver's class
        said = f"(no text: {type(error).__name__})"
    said = _SECRETS.sub("***", said)
    return f"{type(cause).__name__}{': ' if said else ''}{said[:_CAUSE_SHOWN]}"


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
