"""Small charts made of characters. They know no colours and no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bar", "skyline"]

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_LEVELS: Final = " ▁▂▃▄▅▆▇█"
_PLAIN_LEVELS: Final = " .:-=+*%#"


def bar(value: float, most: float, width: int, *, plain: bool = False) -> str:
    """
    Draw a lying bar.

    Args:
        value: what it stands for.
        most: the value whose bar fills the width.
        width: in characters.
        plain: use ASCII only.
    """
    if most <= 0 or value <= 0:
        return ""
    eighths = max(round(min(value / most, 1.0) * width * 8), 1)
    if plain:
        return "#" * max(round(eighths / 8), 1)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def skyline(samples: Sequence[tuple[float, float]], seconds: float, highest: float, width: int, *, plain: bool = False) -> str:
    """
    Draw values over time as standing bars, one character each.

    Args:
        samples: (seconds, value), in order of time.
        seconds: the time that fills the width; what is longer is cut.
        highest: the value whose bar is full.
        width: in characters.
        plain: use ASCII only.
    """
    levels = _PLAIN_LEVELS if plain else _LEVELS
    heights: list[list[float]] = [[] for _ in range(width)]
    for at, value in samples:
        column = int(at / seconds * width)
        if column < width:
            heights[column].append(value)
    line, last = "", 0.0
    for values in heights:
        if values:
            last = sum(values) / len(values)
        line += levels[min(round(last / highest * (len(levels) - 1)), len(levels) - 1)]
    used = max((index for index, values in enumerate(heights) if values), default=-1) + 1
    return line[:used]
