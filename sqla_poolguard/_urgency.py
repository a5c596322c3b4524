"""How urgent a request is: until when it has a use for a connection, and how important it is. It knows no pool."""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal

from sqla_poolguard._overload import Priority

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

__all__ = ["deadline", "due", "importance", "priority"]

clock: Callable[[], float] = time.monotonic
"""The clock on which deadlines are kept, that of the pools; tests that live in virtual time set another."""


_LEVELS: Final = {level.name.lower(): level for level in Priority}
_due: Final[ContextVar[float]] = ContextVar("sqla_poolguard_deadline", default=math.inf)
_importance: Final[ContextVar[Priority]] = ContextVar("sqla_poolguard_priority", default=Priority.NORMAL)


class deadline:  # noqa: N801 - used like a function
    """
    Say that nobody wants the answer any more after some seconds: no checkout inside waits longer than that.

    A context manager, for `with`; tasks created inside inherit it. Of nested ones the nearest counts.
    It interrupts nothing: a connection that is there at once is handed out even when it has passed.
    """

    __slots__ = ("_seconds", "_tokens")

    def __init__(self, seconds: float) -> None:
        """
        Set a deadline.

        Args:
            seconds: from the moment the block is entered.

        Raises:
            ValueError: it is not a number of seconds, 0 or more.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            msg = f"deadline({seconds!r}) is not allowed; allowed: a number of seconds, 0 or more"
            raise ValueError(msg)
        self._seconds = seconds
        self._tokens: list[Token[float]] = []

    def __enter__(self) -> None:
        self._tokens.append(_due.set(min(_due.get(), clock() + self._seconds)))

    def __exit__(self, *_: object) -> None:
        try:  # noqa: SIM105 - for speed
            _due.reset(self._tokens.pop())
        except ValueError:  # an async generator that is closed in another context than it began in
            pass


class priority:  # noqa: N801 - used like a function
    """
    Say how important the requests inside are: "critical", "normal" or "sheddable".

    A context manager, for `with`; tasks created inside inherit it. Of nested ones the innermost counts.
    Use "critical" for few: where most are critical, nobody is.
    """

    __slots__ = ("_level", "_tokens")

    def __init__(self, level: Literal["critical", "normal", "sheddable"]) -> None:
        """
        Set a priority.

        Args:
            level: "critical", "normal" or "sheddable".

        Raises:
            ValueError: it is none of these.
        """
        if not isinstance(level, str) or level not in _LEVELS:
            msg = f"priority({level!r}) is not allowed; allowed: 'critical', 'normal' or 'sheddable'"
            raise ValueError(msg)
        self._level = _LEVELS[level]
        self._tokens: list[Token[Priority]] = []

    def __enter__(self) -> None:
        self._tokens.append(_importance.set(self._level))

    def __exit__(self, *_: object) -> None:
        try:  # noqa: SIM105 - for speed
            _importance.reset(self._tokens.pop())
        except ValueError:
            pass


due: Final[Callable[[], float]] = _due.get
"""Tell until when, on the clock, the running code has a use for a connection; infinity if nobody said."""

importance: Final[Callable[[], Priority]] = _importance.get
"""Tell how important the running code is."""
