"""Facts to `logging`: one warning per overdue lease, one when it came back, one error per leak. It writes no SQL."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sqla_poolguard._observer import Observer

if TYPE_CHECKING:
    from sqla_poolguard._facts import Checkout, Holder, Site

__all__ = ["LogObserver"]

_log: Final = logging.getLogger("sqla_poolguard")


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

    def returned(self, checkout: Checkout) -> None:
        """Warn again, so that the first warning is not taken for a leak."""
        _log.warning(
            "pool %r: connection came back after %.1f s (%s): %s",
            checkout.pool,
            checkout.held,
            checkout.ending,
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
