"""Times, shares and counts as people write them: 30ms, 1%, 25%."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import click

__all__ = ["SECONDS", "SHARE", "Number", "Whole", "plural", "shown_share", "shown_time"]

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SHORTEST, _LONGEST = 1e-6, 1e6
"""Seconds beyond which a time is a slip of the finger."""
_RAREST: Final = 1e-6
_TIME: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|min|h)?", re.ASCII)
_PERCENT: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*%", re.ASCII)


class _Seconds(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.1
    """A time, in seconds unless a unit is given."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, int | float):
            return float(value)
        found = _TIME.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is no time; allowed: a number with us, ms, s, m or h, such as 30ms", param, ctx)
        seconds = float(found[1]) * _UNITS[found[2] or ""]
        if seconds and not _SHORTEST <= seconds <= _LONGEST:
            self.fail(f"{value!r} is not allowed; allowed: 0, or a time from 1us to {_LONGEST:,.0f}s", param, ctx)
        return seconds


class _Share(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.1
    """A share, as a percentage or as a number below 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        try:
            found = _PERCENT.fullmatch(value.strip())
            share = float(found[1]) / 100 if found else float(value)
        except ValueError:
            share = -1.0
        if not _RAREST <= share < 1:
            self.fail(
                f"{value!r} is no share; allowed: between 0 and 1, or a percentage such as 1%, and at least {_RAREST:.6f}",
                param,
                ctx,
            )
        return share


class Number(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.1
    """A number in a range; unlike click's own it takes neither nan nor infinity."""

    name = "number"

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self._least <= number <= self._most:
            self.fail(f"{value!r} is not allowed; allowed: a number from {self._least:,g} to {self._most:,.0f}", param, ctx)
        return number


class Whole(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.1
    """A whole number in a range."""

    name = "whole"

    def __init__(self, least: int, most: int = 1_000_000) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        try:
            number = int(value)
        except ValueError:
            number = self._least - 1
        if not self._least <= number <= self._most:
            self.fail(f"{value!r} is not allowed; allowed: a whole number from {self._least} to {self._most:,}", param, ctx)
        return number


SECONDS: Final = _Seconds()
SHARE: Final = _Share()


def plural(count: int, noun: str, more: str | None = None) -> str:
    """Count something: 1 pool, 2 pools."""
    return f"{count} {noun if count == 1 else more or noun + 's'}"


def shown_time(seconds: float) -> str:
    """Show a time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us" if seconds else "0 s"


def shown_share(share: float, digits: int = 3) -> str:
    """Show a share as a percentage, with three digits, since 1.02 % is not 1 %; or with fewer where no more are known."""
    percent = 100 * share
    if percent >= 0.01:  # noqa: PLR2004 - below, nobody sees a difference
        return f"{percent:.{digits}g} %"
    return "< 0.01 %"
