"""One timer of one pool in one event loop, set for whatever is due first. It decides nothing: the pool sweeps."""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqla_poolguard._pool import GuardedPool

__all__ = ["Sweeper"]


class Sweeper:
    """
    Wakes a pool when the first waiter's deadline passes or the first lease gets overdue.

    The event loop keeps the timer, the timer this object; the pool is held weakly, so that a timer keeps no pool alive.
    """

    __slots__ = ("_at", "_pool", "_timer")

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = weakref.ref(pool)
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def wake_by(self, at: float, now: float) -> None:
        """Wake the pool at `at` (on its clock) or before; to be called in the loop that this sweeper is for."""
        if at < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = at
            self._timer = asyncio.get_running_loop().call_later(max(at - now, 0.0), self._wake)

    def stop(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, math.inf

    def _wake(self) -> None:
        self._timer, self._at = None, math.inf
        pool = self._pool()
        if pool is not None:
            pool._sweep(self)
