"""What the suites of `tests/plugin` keep for ever: until their run is over, and our own test forgets it."""

from __future__ import annotations

from typing import Any

__all__ = ["KEPT"]

KEPT: list[Any] = []
