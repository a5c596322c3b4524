"""What the suites of `tests/plugin` keep for ever: until their run is over, and our own test forgets it."""

from __future__ import annotations

from typing import Any

__all__ = ["KEPT", "SLOTTED"]

KEPT: list[Any] = []


class Slotted:
    """What nothing can be put into."""

    __slots__ = ()

    def ask(self):
        """Answer."""


SLOTTED = Slotted()
