"""What a test run demands of its connections: options, their checks, and a test's own marker. It imports nothing heavy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODES", "Policy", "PoolguardWarning", "read_count", "read_mode", "read_seconds"]

MODES: Final = ("strict", "warn", "off")
_NONE: Final = frozenset({"", "none"})


class PoolguardWarning(UserWarning):
    """Something is wrong with a test's connections, and `poolguard = warn` lets it pass."""


class Policy(NamedTuple):
    """What is demanded of one test. All times are in seconds."""

    mode: str = "strict"
    """Whether a fault fails the test ("strict"), only warns ("warn"), or nobody looks ("off")."""
    quiesce: float = 1.0
    """How long background tasks that hold a connection may take to give it back when the test has ended."""
    max_foreign_await: float | None = None
    """The longest that one line may await something else than the database while it has a connection; None: as long as it likes."""
    forbidden_calls: tuple[str, ...] = ()
    """Calls that must not be made while a connection is held."""
    ledger: bool = False
    """Whether the time of every lease is told."""
    max_hold: float | None = None
    """The longest that a connection may be out; None: as long as the test likes."""
    max_nesting: int | None = None
    """The most connections of one pool that one task may have at one time; None: as many as it likes."""
    allow_hold: str | None = None
    """Why this test may hold connections for long, and to its end."""
    expect_leak: bool = False
    """Whether this test must leave or lose a connection."""

    def with_marker(self, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Policy:
        """
        Apply the marker of a test: `@pytest.mark.poolguard(allow_hold="…", max_await=0.1, expect_leak=True)`.

        Raises:
            ValueError: there is no argument, one is unknown, or its value is not allowed.
        """
        if arguments:
            msg = f"pytest.mark.poolguard takes no positional argument, got {arguments[0]!r}; allowed: {', '.join(_MARKS)}"
            raise ValueError(msg)
        if not options:
            msg = f"pytest.mark.poolguard says nothing; allowed: {', '.join(_MARKS)}"
            raise ValueError(msg)
        changed = self
        for option, value in options.items():
            if option not in _MARKS:
                msg = f"pytest.mark.poolguard({option}=…) is unknown; allowed: {', '.join(_MARKS)}"
                raise ValueError(msg)
            field, read = _MARKS[option]
            changes: dict[str, Any] = {field: read(f"pytest.mark.poolguard({option}=…)", value)}
            changed = changed._replace(**changes)
        return changed


def read_mode(option: str, value: object) -> str:
    """
    Read a mode.

    Raises:
        ValueError: it is none; the message names option, value and what is allowed.
    """
    if isinstance(value, str) and value.strip().lower() in MODES:
        return value.strip().lower()
    raise _refuse(option, value, "strict, warn or off")


def read_seconds(option: str, value: object) -> float | None:
    """
    Read a number of seconds, 0 or more; "none" and nothing are None.

    Raises:
        ValueError: it is not one.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _NONE):
        return None
    try:
        seconds = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise _refuse(option, value, "none, or a number of seconds, 0 or more")
    return seconds


def read_count(option: str, value: object) -> int | None:
    """
    Read a whole number, 1 or more; "none" and nothing are None.

    Raises:
        ValueError: it is not one.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _NONE):
        return None
    text = str(value).strip()
    if isinstance(value, (str, int)) and not isinstance(value, bool) and text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise _refuse(option, value, "none, or a whole number, 1 or more")


def _read_reason(option: str, value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise _refuse(option, value, "a non-empty text that says why the hold is right")


def _read_switch(option: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _refuse(option, value, "True or False")


def _refuse(option: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"{option}: {value!r} is not allowed; allowed: {allowed}")


_MARKS: Final = {
    "allow_hold": ("allow_hold", _read_reason),
    "max_await": ("max_foreign_await", read_seconds),
    "expect_leak": ("expect_leak", _read_switch),
}
"""Arguments of the marker: the field of the policy that each sets, and how it is read."""
