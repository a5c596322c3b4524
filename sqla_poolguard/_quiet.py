"""Whether anybody listens to a pool, found without asking."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sqlalchemy.event import attr

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Quiet"]


class Quiet:
    """
    Tells whether nobody listens to a pool, nor reads its debug log.

    SQLAlchemy and `logging` would have to be asked four times per checkout, and each answer costs as much as all our books.
    But SQLAlchemy puts another object into the pool's dispatcher once somebody listens to that pool,
    and collects those who listen to all pools in a deque that is always the same;
    and a logger keeps its answers in a dictionary, which it clears when they may have changed.
    """

    __slots__ = (
        "checkin",
        "checkin_anywhere",
        "checkout",
        "checkout_anywhere",
        "dispatch",
        "levels",
        "logger",
        "reset",
        "reset_anywhere",
    )

    def __init__(self, dispatch: Any, logger: Any) -> None:
        self.dispatch = dispatch
        """The pool's dispatcher, which it keeps for life, and where it is found faster."""
        self.checkout, self.checkout_anywhere = _unheard(dispatch.checkout)
        self.checkin, self.checkin_anywhere = _unheard(dispatch.checkin)
        self.reset, self.reset_anywhere = _unheard(dispatch.reset)
        self.logger = logger
        self.levels: Mapping[int, bool] = getattr(logger, "_cache", {}) if _answers_as_usual(logger) else {}
        """Whether each level is enabled, as far as it was asked; empty for a logger that has to be asked each time."""

    def hears_checkouts(self) -> bool:
        """Tell whether anybody listens to checkouts just now."""
        listeners = self.dispatch.checkout
        return (listeners is not self.checkout and bool(listeners)) or bool(self.checkout_anywhere)


def _answers_as_usual(logger: Any) -> bool:
    """Tell whether a logger decides as `logging` does; an application's own may decide by request, say."""
    return getattr(type(logger), "isEnabledFor", None) is logging.Logger.isEnabledFor and "isEnabledFor" not in vars(logger)


def _unheard(listeners: Any) -> tuple[object, Collection[object]]:
    """Give what is in the dispatcher while nobody listens to the pool (nothing is identical to a new object), and who does to all."""
    return (listeners, listeners.parent_listeners) if isinstance(listeners, attr._EmptyListener) else (object(), ())
