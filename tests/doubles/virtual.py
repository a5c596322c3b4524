"""An event loop whose clock is virtual, for all tests of a folder: `sqla_poolguard.testing`'s, and what our tests ask of time."""

from __future__ import annotations

import asyncio
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, ClassVar

from sqla_poolguard._testing import clock
from sqla_poolguard._testing.clock import FakeClock, NobodyWakesUsError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NobodyWakesUsError", "VirtualLoop", "elapsed", "turns", "until", "virtual_time"]


class VirtualLoop(clock.VirtualLoop):
    """An event loop on a clock of its own."""

    start: ClassVar[float] = 1000.0
    latest: ClassVar[FakeClock] = FakeClock(start)
    """The last loop's clock, for threads that have no loop."""

    def __init__(self) -> None:
        VirtualLoop.latest = FakeClock(self.start)
        super().__init__(VirtualLoop.latest)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's signature
        """Wait for its threads, which live in real time: a timeout of this clock would be over at once (Python 3.11 has none)."""
        await super().shutdown_default_executor()

    @property
    def _now(self) -> float:
        return self.clock.now

    @_now.setter
    def _now(self, now: float) -> None:
        self.clock.now = now


def virtual_time() -> float:
    """Read the running loop's clock; in a thread without one, the last virtual clock there was."""
    loop = _get_running_loop()
    return loop.time() if loop is not None else VirtualLoop.latest.now


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
