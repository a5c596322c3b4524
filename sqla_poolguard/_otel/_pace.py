"""How long a collection may work before other threads have a turn. It knows neither pools nor instruments."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["STEPS", "Pace"]

STEPS: Final = 8
"""
Steps before other threads may run: samples, or pools that are looked at. Some 150 us, for which an event loop has to wait at most.

A collection that never pauses costs an event loop the interpreter's switch interval, 5 ms, at each of its turns.
"""


class Pace:
    """
    Counts the steps of those who collect with one set of instruments.

    Two threads that count at once may pause a step too early or too late; nothing breaks by it.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = 0

    def step(self) -> bool:
        """Let other threads run, if it is time to; tell whether it was. To be called before each step."""
        pauses = self._left <= 0
        if pauses:
            time.sleep(0)
            self._left = STEPS
        self._left -= 1
        return pauses
