"""Facts to `logging`: one warning per overdue lease, one when it came back, one error per leak. It writes no SQL."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sqla_poolguard._finding import FindingKind
from sqla_poolguard._observer import Observer

if TYPE_CHECKING:
    from sqla_poolguard._facts import Checkout, Holder, Site
    from sqla_poolguard._finding import Finding, SlowStatement
    from sqla_poolguard._overload import Overload

__all__ = ["LogObserver"]

_log: Final = logging.getLogger("sqla_poolguard")

_FOUND: Final = {
    FindingKind.HELD_ACROSS_AWAIT: "connection held across an await: the line",
    FindingKind.ORPHANED: "connection orphaned: the task that checked it out has finished",
    FindingKind.NESTED: "connection held while a second one is asked for: the line",
    FindingKind.DEADLOCK: "deadlock: all holders wait for this very pool; the waiter",
    FindingKind.LOOP_BLOCKED: "connection held while its holder blocks the event loop",
}
_LEVELS: Final = {FindingKind.DEADLOCK: logging.ERROR}


class LogObserver(Observer):
    """
    Say in the log of `sqla_poolguard` which line holds, held or lost a connection.

    Each record carries its fact as the attribute `poolguard`, for formatters that write fields.
    """

    __slots__ = ()

    def overdue(self, holder: Holder) -> None:
        """Warn, once per lease."""
        _log.warning(
            "pool %r: connection held for %.1f s and still out: %s%s",
            holder.pool,
            holder.held,
            _who(holder.site, holder.task),
            _stack(holder.stack),
            extra={"poolguard": holder},
        )

    def overloaded(self, overload: Overload) -> None:
        """Warn that requests are turned away, or would be."""
        _log.warning(
            "pool %r: %s %d %s%s: a wait of %.2f s was predicted, max_wait is %.2f s",
            overload.pool,
            "turned away" if overload.acted else "fail_fast=True would have turned away",
            overload.count,
            "request" if overload.count == 1 else "requests",
            f" in the last {overload.seconds:.0f} s" if overload.seconds else "",
            overload.predicted,
            overload.max_wait,
            extra={"poolguard": overload},
        )

    def found(self, finding: Finding) -> None:
        """Warn of a line that holds a connection while it should not; said once for it, then counted."""
        if finding.kind not in _FOUND:  # the others have words of their own here
            return
        _log.log(
            _LEVELS.get(finding.kind, logging.WARNING),
            "pool %r: %s%s%s; held for %.1f s (%.1f s in the database), %s%s%s",
            finding.pool,
            _FOUND[finding.kind],
            f" at {finding.current} awaits {finding.awaiting}"
            if finding.awaiting
            else f" at {finding.current}"
            if finding.current
            else "",
            " (idle in transaction)" if finding.in_transaction and finding.kind is not FindingKind.DEADLOCK else "",
            finding.held,
            finding.in_database,
            _who(finding.site, finding.task),
            f", trace {finding.trace_id}" if finding.trace_id else "",
            "".join(f"\n  {detail}" for detail in finding.details)
            + (f"\n  {finding.count} times by now" if finding.count > 1 else ""),
            extra={"poolguard": finding},
        )

    def slow(self, statement: SlowStatement) -> None:
        """Tell of a slow statement: who, how long, and its text if that was asked for."""
        _log.warning(
            "pool %r: statement took %.2f s%s%s%s",
            statement.pool,
            statement.seconds,
            f" at {statement.site}" if statement.site is not None else "",
            f", task {statement.task!r}" if statement.task is not None else "",
            f": {statement.text}" if statement.text is not None else "",
            extra={"poolguard": statement},
        )

    def returned(self, checkout: Checkout) -> None:
        """Warn again, so that the first warning is not taken for a leak."""
        known = checkout.in_database is not None and checkout.elsewhere is not None
        split = f", {checkout.in_database:.1f} s of it in the database, {checkout.elsewhere:.1f} s awaiting something else"
        _log.warning(
            "pool %r: connection came back after %.1f s (%s%s): %s",
            checkout.pool,
            checkout.held,
            checkout.ending,
            split if known and "".join(checkout.reported) != "overdue" else "",
            _who(checkout.site, checkout.task),
            extra={"poolguard": checkout},
        )

    def leaked(self, checkout: Checkout) -> None:
        """Say as an error that a connection was lost for good."""
        _log.error(
            "pool %r: connection leaked, never closed, collected after %.1f s: %s%s",
            checkout.pool,
            checkout.held,
            _who(checkout.site, checkout.task),
            _stack(checkout.stack),
            extra={"poolguard": checkout},
        )


def _who(site: Site | None, task: str | None) -> str:
    where = f"checked out at {site}" if site is not None else "checked out at an unknown line"
    return f"{where}, task {task!r}" if task is not None else where


def _stack(stack: tuple[Site, ...]) -> str:
    return "".join(f"\n  called from {site}" for site in stack)
