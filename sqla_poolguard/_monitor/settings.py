"""The options of a monitor: their defaults and their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    When to look, and when to warn.

    Raises:
        ValueError: an option is not allowed; the message names it, its value and what is allowed.
    """

    interval: float = 5.0
    """Seconds between two looks."""
    near_capacity: float | None = 0.8
    """Share of `pool_size + max_overflow` in use from which to warn; None for never."""
    sustained: float = 10.0
    """Seconds for which that has been so at every look, at two of them at least; and for which it, or a long wait, is to be over."""
    starvation: float | None = 1.0
    """Seconds that somebody has waited, while nothing is idle, from which to warn; None for never."""
    idle_in_transaction: float | None = 5.0
    """Seconds for which a connection that is out has been idle in its transaction from which to warn; None for never."""
    slots_low: int | None = 5
    """Connections that the server has room for at which to warn, or fewer; None for never."""
    timeout: float = 2.0
    """Seconds for the monitor's own connect, and for an answer."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            least, most, allowed = _ALLOWED[option.name]
            optional = "None" in str(option.type)
            if value is None and optional:
                continue
            kind = int if option.name == "slots_low" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most or math.isinf(value):
                msg = f"PoolMonitor option {option.name}={value!r} is not allowed; allowed: {'None or ' if optional else ''}{allowed}"
                raise ValueError(msg)


_ALLOWED: Final = {
    "interval": (0.05, 3600.0, "seconds from 0.05 to 3600"),
    "near_capacity": (0.01, 1.0, "a share from 0.01 to 1"),
    "sustained": (0.0, 3600.0, "seconds from 0 (then one look is enough) to 3600"),
    "starvation": (0.0, math.inf, "a number of seconds, 0 or more"),
    "idle_in_transaction": (0.0, math.inf, "a number of seconds, 0 or more"),
    "slots_low": (0, math.inf, "a whole number, 0 or more"),
    "timeout": (0.05, 60.0, "seconds from 0.05 to 60"),
}
