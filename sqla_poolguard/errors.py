"""What a caller may catch, and the message that tells what to do. Built from facts; it looks into no pool."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy.exc

from sqla_poolguard._facts import Reason, holders_by_site

if TYPE_CHECKING:
    from sqla_poolguard._facts import PoolSnapshot

__all__ = ["CheckoutError", "CheckoutRejected", "CheckoutTimeout"]

_SITES_SHOWN = 10


class CheckoutError(sqlalchemy.exc.TimeoutError):
    """Superclass of the errors of a checkout. Never raised itself."""

    code = "3o7r"
    status_code: ClassVar[int] = 503
    """The HTTP status that fits."""
    title: ClassVar[str] = "No database connection"

    def __init__(self, *, reason: Reason, waited: float, retry_after: float | None, snapshot: PoolSnapshot) -> None:
        """
        Make the error and its message.

        Args:
            reason: why there was no connection.
            waited: seconds the caller had waited.
            retry_after: seconds after which a retry has a fair chance; None if nothing is known.
            snapshot: the pool at this moment.
        """
        self.reason = str(reason)
        """Why there was no connection, one of the `Reason` values."""
        self.waited = waited
        """Seconds the caller had waited."""
        self.retry_after = retry_after
        """Seconds after which a retry has a fair chance; None if nothing is known."""
        self.snapshot = snapshot
        """The pool at that moment, its holders included."""
        super().__init__(_message(self.reason, waited, snapshot), code=self.code)

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
        return _restore, (type(self), self.reason, self.waited, self.retry_after, self.snapshot)


class CheckoutTimeout(CheckoutError):  # noqa: N818 - named as SQLAlchemy names its own
    """Waited for a connection in vain: `pool_timeout` passed while it queued, connected or pinged."""

    title = "No database connection in time"


class CheckoutRejected(CheckoutError):  # noqa: N818 - likewise
    """Was not allowed to wait for a connection, and knows it at once."""

    title = "Too many requests wait for a database connection"


def _restore(kind: type[CheckoutError], reason: str, waited: float, retry: float | None, snap: PoolSnapshot) -> CheckoutError:
    return kind(reason=Reason(reason), waited=waited, retry_after=retry, snapshot=snap)


def _message(reason: str, waited: float, snapshot: PoolSnapshot) -> str:
    """Say what happened, in figures, and who holds the connections."""
    if reason == Reason.QUEUE_FULL:
        head = f"no connection: the queue is full: {snapshot}"
    else:
        head = f"no connection after {waited:.2f} s: {snapshot}"
    rows = holders_by_site(snapshot.holders)
    width = max((len(str(site or "(unknown)")) for _, site, _ in rows[:_SITES_SHOWN]), default=0)
    lines = [f"  {count:>3} x  {site or '(unknown)'!s:<{width}}   held {held:.1f} s" for count, site, held in rows[:_SITES_SHOWN]]
    if len(rows) > _SITES_SHOWN:
        rest = sum(count for count, _, _ in rows[_SITES_SHOWN:])
        lines.append(f"  {rest:>3} x  at {len(rows) - _SITES_SHOWN} other lines")
    return "\n".join([head, *lines])
