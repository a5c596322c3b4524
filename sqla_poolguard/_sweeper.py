"""One timer for a pool in each event loop it is used in, set for whatever is due first. It decides nothing: the pool sweeps."""

from __future__ import annotations

import asyncio
import math
import weakref
from contextvars import Context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

__all__ = ["Sweeper"]


class Sweeper:
    """
    Wakes a pool when the first waiter's deadline passes or the first lease gets overdue.

    The pool is held weakly, so that a timer keeps no pool alive. What it does is nobody's, so it has no request's context.
    """

    __slots__ = ("_sweep", "_timers", "armed")

    def __init__(self, sweep: Callable[[], None]) -> None:
        """
        Make a sweeper without a timer.

        Args:
            sweep: a method of the pool, called in the event loop whose timer fired.
        """
        self._sweep = weakref.WeakMethod(sweep)
        self._timers: dict[AbstractEventLoop, tuple[float, asyncio.TimerHandle]] = {}
        self.armed: tuple[AbstractEventLoop | None, float] = (None, math.inf)
        """An event loop, and when its timer fires, on the pool's clock: who asks for nothing sooner there need not ask."""

    def wake_by(self, at: float, now: float) -> None:
        """Wake the pool in the running loop at `at` (on its clock) or before; infinity asks for nothing."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(loop)
        if at == math.inf or (timer is not None and timer[0] <= at):
            return
        if timer is not None:
            timer[1].cancel()
        else:
            for closed in [other for other in self._timers if other.is_closed()]:
                del self._timers[closed]
        self._timers[loop] = (at, loop.call_later(max(at - now, 0.0), self._wake, loop, context=Context()))
        self.armed = (loop, at)

    def forget(self) -> None:
        """Forget every timer, in a forked child: they tick in the parent's event loops."""
        self._timers.clear()
        self.armed = (None, math.inf)

    def _wake(self, loop: AbstractEventLoop) -> None:
        self._timers.pop(loop, None)
        if self.armed[0] is loop:
            self.armed = (None, math.inf)
        sweep = self._sweep()
        if sweep is not None:
            sweep()
