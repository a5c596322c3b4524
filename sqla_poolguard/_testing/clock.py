"""A clock that a test sets, and an event loop in which waiting takes no time: when nobody has anything to do, it jumps to the next timer."""

from __future__ import annotations

import asyncio
import math
import selectors
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._pool import GuardedPool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import TypeVar

    _T = TypeVar("_T")

__all__ = ["FakeClock", "NobodyWakesUsError", "VirtualLoop"]

PATIENCE: Final = 10.0
"""Real seconds to wait for another thread, when no timer is set, before the loop is declared dead."""


class NobodyWakesUsError(RuntimeError):
    """Everybody waits, no timer is set, and no other thread calls."""


class FakeClock:
    """
    A clock that goes only when it is told to, or when everybody in its event loop waits.

    `clock.run(main())` runs a coroutine in its time: a pool timeout of 30 s is over at once, and after exactly 30 s.
    """

    def __init__(self, start: float = 1000.0) -> None:
        """
        Set the clock.

        Args:
            start: what it shows, in seconds.

        Raises:
            ValueError: that is no finite number.
        """
        if isinstance(start, bool) or not isinstance(start, (int, float)) or not math.isfinite(start):
            msg = f"FakeClock({start!r}) is not allowed; allowed: a finite number of seconds"
            raise ValueError(msg)
        self.start = self.now = float(start)

    def __repr__(self) -> str:
        return f"<FakeClock {self.now:g} s>"

    def time(self) -> float:
        """Read it, in seconds."""
        return self.now

    @property
    def elapsed(self) -> float:
        """Seconds that have passed since it was set."""
        return self.now - self.start

    def advance(self, seconds: float) -> None:
        """
        Let time pass; timers that are due fire when their loop runs on.

        Raises:
            ValueError: seconds below 0, or not a number.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            msg = f"FakeClock.advance({seconds!r}) is not allowed; allowed: a number of seconds, 0 or more"
            raise ValueError(msg)
        self.now += seconds

    @property
    def poolclass(self) -> type[GuardedPool]:
        """A `GuardedPool` on this clock: `driver.engine(poolclass=clock.poolclass)`."""
        return type("GuardedPool", (GuardedPool,), {"_clock": staticmethod(self.time), "__slots__": ()})

    def new_event_loop(self) -> VirtualLoop:
        """Make an event loop on this clock, for `asyncio.Runner(loop_factory=clock.new_event_loop)`."""
        return VirtualLoop(self)

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """
        Run a coroutine to its end, in an event loop on this clock.

        Raises:
            NobodyWakesUsError: everybody waits for ever.
        """
        with asyncio.Runner(loop_factory=self.new_event_loop) as runner:
            return runner.run(main)


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            events: list[Any] = super().select(PATIENCE)
            if not events:
                msg = "everybody in this event loop waits, and no timer is set"
                raise NobodyWakesUsError(msg)
            return events
        events = super().select(0)
        if timeout > 0 and not events:
            self.loop.jump()
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time, and is exact."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.after_turn: Callable[[], object] | None = None
        """Called after every turn of the loop."""
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Tell the virtual time, in seconds."""
        return self.clock.now

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        if self.after_turn is not None:
            self.after_turn()

    def jump(self) -> None:
        """Go to the next timer, to the very float it was set for."""
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if scheduled:
            self.clock.now = max(self.clock.now, scheduled[0].when())
