"""
A figure of the ledger that only grows, told to a counter of OpenTelemetry by how much it has grown since.

So it cannot drift: what could not be told at once, since there was no SDK yet or it failed, is told at the next export.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from sqla_poolguard._otel._instruments import nobody_measures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import Counter

__all__ = ["Total"]


class Total:
    """One figure of one pool."""

    __slots__ = ("_attributes", "_counter", "_lock", "_read", "_told")

    def __init__(self, counter: Counter, read: Callable[[], float | None], attributes: Mapping[str, Any]) -> None:
        """
        Tell nothing yet.

        Args:
            counter: is told.
            read: gives the figure; None as long as it is not known.
            attributes: of the pool, and of what is counted.
        """
        self._counter = counter
        self._read = read
        self._attributes = attributes
        self._told: float | None = None
        """Up to where it was told; None: not even that it is 0."""
        self._lock = threading.RLock()

    def tell(self, *context: Any) -> bool:
        """
        Tell what is new; the first time, be it 0, so that those who compare two exports see the first step.

        Args:
            context: in which it happened; default: the current one, which is that of the caller.

        Returns:
            Whether there was anything new.
        """
        if self._read() == self._told or nobody_measures(self._counter):
            return False
        with self._lock:
            now, before = self._read(), self._told
            if now is None or now == before:
                return False
            self._told = now
        try:
            self._counter.add(now - (before or 0), self._attributes, *context)
        except BaseException:
            with self._lock:
                self._told = (self._told or 0) - (now - (before or 0))
            raise
        return True

    def forget(self) -> None:
        """Begin anew, in a forked child, where the figure does too: what was not told is the parent's to tell."""
        self._lock = threading.RLock()
        if self._told is not None:
            self._told = 0
