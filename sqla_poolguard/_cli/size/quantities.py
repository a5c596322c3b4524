"""Times, shares and counts as people write them: 30ms, 1%, 25%."""

from __future__ import annotations

import re
from typing import Any, Final

import click

__all__ = ["SECONDS", "SHARE", "SURGE", "shown_share", "shown_time"]

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
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
        return float(found[1]) * _UNITS[found[2] or ""]


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
        if not 0 < share < 1:
            self.fail(f"{value!r} is no share; allowed: between 0 and 1, or a percentage such as 1%", param, ctx)
        return share


class _Surge(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.1
    """A number of replicas, or a percentage of them."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it; a percentage stays one until the replicas are known."""
        text = str(value).strip()
        if not (text.isascii() and text.isdigit()) and not _PERCENT.fullmatch(text):
            self.fail(f"{value!r} is no surge; allowed: a whole number, or a percentage such as 25%", param, ctx)
        return text


SECONDS: Final = _Seconds()
SHARE: Final = _Share()
SURGE: Final = _Surge()


def shown_time(seconds: float) -> str:
    """Show a time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us" if seconds else "0 s"


def shown_share(share: float) -> str:
    """Show a share as a percentage, with three digits: 1.02 % is not 1 %."""
    percent = 100 * share
    if percent >= 0.01:  # noqa: PLR2004 - below, nobody sees a difference
        return f"{percent:.3g} %"
    return "< 0.01 %"
