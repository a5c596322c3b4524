"""Draws the plots of the documentation. matplotlib is wanted only here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.figures import ratio
from benchmarks.interleave import label
from benchmarks.rivals import OURS, STOCK
from benchmarks.scale import WAITERS
from benchmarks.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.figures import Series

__all__ = ["PlotsUnavailable", "draw", "need_matplotlib"]

_OURS, _THEIRS = "#2a6f97", "#b0b0b0"
_COSTS: Final = ("pool", "engine", "async-with", "session")
_WAITS: Final = ("contended", "burst-0", "burst-2ms", "burst-postgres", "hiccup", "commit-loop", "tight-1", "tight-10")


class PlotsUnavailable(Exception):  # noqa: N818 - it is not an error of the benchmark
    """There is no matplotlib; the message says what to do."""


def need_matplotlib() -> Any:
    """
    Import it.

    Raises:
        PlotsUnavailable: it is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        message = "--plots needs matplotlib, which is not installed: pip install matplotlib"
        raise PlotsUnavailable(message) from None
    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after `use`

    return plt


def draw(results: Mapping[str, Mapping[str, Series]], folder: Path) -> list[Path]:
    """Draw what was measured; return the files."""
    pyplot = need_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, title, picture in (
        ("cost", "time per checkout, ratio to stock", _cost),
        ("waits", "longest wait, ratio to stock", _waits),
        ("waiters", "CPU per checkout", _waiters),
        ("targets", "measured / to reach (1 is the target)", _targets),
    ):
        figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
        if picture(axes, results):
            axes.set_title(title, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            drawn.append(folder / f"{name}.svg")
            figure.savefig(drawn[-1])
        pyplot.close(figure)
    return drawn


def _bars(axes: Any, names: list[str], values: list[float]) -> bool:
    axes.barh(names[::-1], values[::-1], color=_OURS)
    axes.axvline(1.0, color=_THEIRS)
    for place, value in enumerate(values[::-1]):
        axes.text(value, place, f" {value:.2f}", va="center")
    return bool(names)


def _cost(axes: Any, results: Mapping[str, Mapping[str, Series]]) -> bool:
    names = [name for name in _COSTS if name in results]
    return _bars(axes, names, [ratio(results[name][OURS], results[name][STOCK], "time") for name in names])


def _waits(axes: Any, results: Mapping[str, Mapping[str, Series]]) -> bool:
    names = [name for name in _WAITS if name in results]
    return _bars(axes, names, [ratio(results[name][OURS], results[name][STOCK], "max wait") for name in names])


def _waiters(axes: Any, results: Mapping[str, Mapping[str, Series]]) -> bool:
    series = results.get("waiters")
    if series is None:
        return False
    for rival, color in ((STOCK, _THEIRS), (OURS, _OURS)):
        axes.plot(WAITERS, [series[label(rival, size)].median("cpu") * 1e6 for size in WAITERS], "o-", color=color, label=rival)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("waiting tasks")
    axes.set_ylabel("us")
    axes.legend(frameon=False)
    return True


def _targets(axes: Any, results: Mapping[str, Mapping[str, Series]]) -> bool:
    verdicts = [target.verdict(results) for target in TARGETS]
    known = [row for row in verdicts if row["reached"] is not None]
    return _bars(axes, [f"{row['what']}: {row['figure']}" for row in known], [row["measured"] / row["to reach"] for row in known])
