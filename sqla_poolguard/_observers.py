"""The observers of a pool, and the loop that never lets one of them break a checkout."""

from __future__ import annotations

import logging
import math
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqla_poolguard._facts import Wait

__all__ = ["Observers"]

_log: Final = logging.getLogger("sqla_poolguard")


class Observers:
    """The observers of one pool, by what they want to hear of."""

    __slots__ = (
        "_failed",
        "_waits",
        "ended",
        "found",
        "granted",
        "leaked",
        "opened",
        "overdue",
        "overloaded",
        "rejected",
        "returned",
        "slow",
        "waited_from",
    )

    def __init__(self, observers: Iterable[Observer]) -> None:
        everyone = tuple(observers)
        self.granted = _bound(everyone, "granted")
        self.ended = _bound(everyone, "ended")
        self._waits = tuple(
            (_threshold(observer), getattr(observer, "_is_awake", _always), method)
            for observer in everyone
            for method in _bound((observer,), "waited")
        )
        self.waited_from = min((threshold for threshold, _, _ in self._waits), default=math.inf)
        """Seconds from which at least one of them wants to hear of a wait."""
        self.rejected = _bound(everyone, "rejected")
        self.opened = _bound(everyone, "opened")
        self.overloaded = _bound(everyone, "overloaded")
        self.overdue = _bound(everyone, "overdue")
        self.found = _bound(everyone, "found")
        self.returned = _bound(everyone, "returned")
        self.slow = _bound(everyone, "slow")
        self.leaked = _bound(everyone, "leaked")
        self._failed: set[Callable[[Any], None]] = set()

    def hear_of_wait(self, waited: float) -> bool:
        """Tell whether a wait of so many seconds is to be told to anybody at all just now."""
        for threshold, is_awake, _ in self._waits:  # noqa: SIM110 - a generator would cost more than what it saves
            if waited >= threshold and is_awake():
                return True
        return False

    def tell_wait(self, wait: Wait) -> None:
        """Tell a wait to those for whom it is long enough."""
        self.tell(tuple(method for threshold, _, method in self._waits if wait.waited >= threshold), wait)

    def tell(self, listeners: tuple[Callable[[Any], None], ...], fact: object) -> None:
        """Tell a fact to some of the observers; an observer that fails is logged once with its traceback."""
        for listener in listeners:
            try:
                listener(fact)
            except (Exception, CancelledError):  # noqa: BLE001 - nor is a cancellation of its own making, say a future's, the caller's
                if listener not in self._failed:
                    self._failed.add(listener)
                    _log.exception("observer %r failed; its further failures are not logged", listener)


def _always() -> bool:
    """Say yes: an observer hears of everything that it wants to hear of."""
    return True


def _threshold(observer: Observer) -> float:
    """Read from how many seconds on an observer wants to hear of a wait; one that does not say wants to hear of all."""
    seconds = getattr(observer, "waited_from", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        msg = f"waited_from of observer {observer!r} must be a number of seconds, 0 or more; got {seconds!r}"
        raise ValueError(msg)
    return float(seconds)


def _bound(observers: tuple[Observer, ...], event: str) -> tuple[Callable[[Any], None], ...]:
    """Collect the methods that are more than the empty ones they inherit."""
    empty = getattr(Observer, event)
    methods = (getattr(observer, event) for observer in observers)
    return tuple(method for method in methods if getattr(method, "__func__", method) is not empty)
