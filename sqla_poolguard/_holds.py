"""Holds that the application declares to be legitimate, and which of these declarations were never needed."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from sqla_poolguard._finding import Declaration
from sqla_poolguard._scope import enter, leave

if TYPE_CHECKING:
    from contextvars import Context

    from sqla_poolguard._scope import Scope

__all__ = ["OPTION", "allow_hold", "declarations", "declared_here", "declared_in", "excuse", "forget"]

OPTION: Final = "poolguard_hold"
"""The execution option that declares a hold; its value is the reason."""

STALE_AFTER: Final = 100
"""Times after which a declaration that never excused anything is reported."""

_MOST: Final = 1000
_log: Final = logging.getLogger("sqla_poolguard")
_declared: Final[ContextVar[Scope[str] | None]] = ContextVar("sqla_poolguard_hold", default=None)
_counts: Final[dict[str, list[int]]] = {}
"""Reason to [times declared, holds excused]."""


class allow_hold:  # noqa: N801 - used like a function
    """
    Declare that a connection may be held here while something else is awaited: LISTEN, a leader's lock, a slow cursor.

    A context manager, for `with`. It applies to the holds of the code inside, the tasks that it creates included,
    whichever pool they come from.
    """

    __slots__ = ("_reason",)

    def __init__(self, reason: str) -> None:
        """
        Declare a hold.

        Args:
            reason: why it is right; it is listed in `snapshot().declared`.

        Raises:
            ValueError: there is no reason.
        """
        if not isinstance(reason, str) or not reason.strip():
            msg = f"allow_hold({reason!r}) is not allowed; allowed: a non-empty text that says why the hold is right"
            raise ValueError(msg)
        self._reason = reason

    def __enter__(self) -> None:
        counts = _entry(self._reason)
        counts[0] += 1
        if counts[0] == STALE_AFTER + 1 and not counts[1]:
            _log.warning("allow_hold(%r) was entered %d times and never excused a hold: it may go", self._reason, STALE_AFTER)
        enter(_declared, self._reason, self)

    def __exit__(self, *_: object) -> None:
        leave(_declared, self)


def declared_in(context: Context | None) -> str | None:
    """Give the reason of the declaration in whose scope a context is; None if there is none."""
    declared = context.get(_declared) if context is not None else None
    return declared.value if declared is not None else None


def declared_here() -> str | None:
    """Give the reason of the declaration in whose scope the caller is; None if there is none."""
    declared = _declared.get()
    return declared.value if declared is not None else None


def excuse(reason: str, *, by_option: bool = False) -> None:
    """Note that a declaration has excused a hold."""
    counts = _entry(reason)
    counts[1] += 1
    if by_option:
        counts[0] += 1


def declarations() -> tuple[Declaration, ...]:
    """List what was declared in this process, the most frequent first."""
    rows = [Declaration(reason, *counts) for reason, counts in list(_counts.items())]
    return tuple(sorted(rows, key=lambda declaration: -declaration.entered))


def forget() -> None:
    """Begin anew, in a forked child."""
    _counts.clear()


def _entry(reason: str) -> list[int]:
    if reason not in _counts and len(_counts) >= _MOST:
        return [0, 0]
    return _counts.setdefault(reason, [0, 0])
