"""How many replicas a rollout adds, as Kubernetes has it: a number, or a percentage of them (`maxSurge`)."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import click

__all__ = ["SURGE", "surge_of"]

_PERCENT: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*%", re.ASCII)
_MOST_PERCENT: Final = 1000
_MOST_REPLICAS: Final = 1_000_000


def surge_of(text: str, replicas: int) -> int:
    """Give the number of replicas that a surge means; a percentage of them is rounded up, as Kubernetes does."""
    number = float(text.rstrip(" %"))
    return math.ceil(round(replicas * number / 100, 6)) if text.endswith("%") else int(number)


class _Surge(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.1
    """A number of replicas, or a percentage of them."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it; a percentage stays one until the replicas are known."""
        text = str(value).strip()
        percent = _PERCENT.fullmatch(text)
        number = float(percent[1]) if percent else float(text) if text.isascii() and text.isdigit() else -1.0
        if not 0 <= number <= (_MOST_PERCENT if percent else _MOST_REPLICAS):
            allowed = f"a whole number up to {_MOST_REPLICAS:,}, or a percentage such as 25%, up to {_MOST_PERCENT}%"
            self.fail(f"{value!r} is no surge; allowed: {allowed}", param, ctx)
        return text


SURGE: Final = _Surge()
