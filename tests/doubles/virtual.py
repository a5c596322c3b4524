"""An event loop whose clock is virtual: when nobody has anything to do, time jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0
"""Real seconds to wait for another thread, when no timer is set, before the loop is declared dead."""


class NobodyWakesUsError(RuntimeError):
    """Everybody waits, no timer is set, and no other thread calls."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            events = super().select(PATIENCE)
            if not events:
                raise NobodyWakesUsError
            return events
        events = super().select(0)
        if timeout > 0 and not events:
            self.loop.jump()
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time, and is exact."""

    start: ClassVar[float] = 1000.0
    latest: ClassVar[float] = start
    """Where the last loop's clock stood, for threads that have no loop."""

    def __init__(self) -> None:
        self._now = VirtualLoop.latest = self.start
        self.after_turn: Callable[[], object] | None = None
        """Called after every turn of the loop."""
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Tell the virtual time, in seconds."""
        return self._now

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        if self.after_turn is not None:
            self.after_turn()

    def jump(self) -> None:
        """Go to the next timer, to the very float it was set for."""
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if scheduled:
            self._now = VirtualLoop.latest = max(self._now, scheduled[0].when())


def virtual_time() -> float:
    """Read the running loop's clock; in a thread without one, the last virtual clock there was."""
    loop = _get_running_loop()
    return loop.time() if loop is not None else VirtualLoop.latest


def elapsed() -> float:
    """Tell how many virtual seconds have passed since the loop was made."""
    return asyncio.get_running_loop().time() - VirtualLoop.start


async def until(condition: Callable[[], object]) -> None:
    """Let everybody else run until a condition holds; a test that waits for ever here has a time limit of its own."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)


async def turns(count: int = 3) -> None:
    """Let everybody else run for some turns of the loop; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)
