"""For how long an event loop did not run: its process was busy, or the machine stood still. What is measured meanwhile is not the pool's."""

from __future__ import annotations

import asyncio
import time
from typing import Final

__all__ = ["WORTH_TELLING", "Stalls"]

_TICK: Final = 0.01
WORTH_TELLING: Final = 0.1
"""Seconds; the demand on a refusal."""


class Stalls:
    """Watches the loop in which it is begun, until that ends."""

    def __init__(self) -> None:
        self.longest = 0.0
        """Seconds, since `forget`."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def forget(self) -> None:
        """Begin anew."""
        self.longest = 0.0

    def stop(self) -> None:
        """Watch no more."""
        self._task.cancel()

    async def _watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last - _TICK), now
