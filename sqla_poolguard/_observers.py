"""Who is told what happened: the observer protocol, and the loop that never lets an observer break a checkout."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqla_poolguard._facts import Checkout, Holder, Opened, Rejection, Wait

__all__ = ["Observer", "Observers"]

_log: Final = logging.getLogger("sqla_poolguard")


class Observer:
    """
    Be told what happens in a pool.

    Subclass it and override what you want to hear of; what you do not override costs nothing.
    `granted` and `ended` are called for every checkout: overriding them puts your code on the hot path.
    Methods are called synchronously, never awaited, and must not use the pool.
    What they raise is logged and goes no further.
    """

    __slots__ = ()

    def granted(self, holder: Holder) -> None:
        """A checkout got its connection."""

    def ended(self, checkout: Checkout) -> None:
        """A lease ended, in whatever way."""

    def waited(self, wait: Wait) -> None:
        """A checkout that could not be served at once got its connection."""

    def rejected(self, rejection: Rejection) -> None:
        """A checkout got no connection."""

    def opened(self, opened: Opened) -> None:
        """A physical connection was opened."""

    def overdue(self, holder: Holder) -> None:
        """A lease is held longer than `hold_warning`; said once per lease."""

    def returned(self, checkout: Checkout) -> None:
        """A lease that was reported as overdue ended after all, in another way than by leaking."""

    def leaked(self, checkout: Checkout) -> None:
        """A connection was never given back: the garbage collector found it."""


class Observers:
    """The observers of one pool, by what they want to hear of."""

    __slots__ = ("_failed", "ended", "granted", "leaked", "opened", "overdue", "rejected", "returned", "waited")

    def __init__(self, observers: Iterable[Observer]) -> None:
        everyone = tuple(observers)
        self.granted = _bound(everyone, "granted")
        self.ended = _bound(everyone, "ended")
        self.waited = _bound(everyone, "waited")
        self.rejected = _bound(everyone, "rejected")
        self.opened = _bound(everyone, "opened")
        self.overdue = _bound(everyone, "overdue")
        self.returned = _bound(everyone, "returned")
        self.leaked = _bound(everyone, "leaked")
        self._failed: set[Callable[[Any], None]] = set()

    def tell(self, listeners: tuple[Callable[[Any], None], ...], fact: object) -> None:
        """Tell a fact to some of the observers; an observer that fails is logged once with its traceback."""
        for listener in listeners:
            try:
                listener(fact)
            except Exception:  # noqa: BLE001 - whatever it is, the checkout goes on
                if listener not in self._failed:
                    self._failed.add(listener)
                    _log.exception("observer %r failed; its further failures are not logged", listener)


def _bound(observers: tuple[Observer, ...], event: str) -> tuple[Callable[[Any], None], ...]:
    """Collect the methods that are more than the empty ones they inherit."""
    empty = getattr(Observer, event)
    methods = (getattr(observer, event) for observer in observers)
    return tuple(method for method in methods if getattr(method, "__func__", method) is not empty)
