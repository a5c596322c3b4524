"""Prints results: tables where there is a terminal, the same in plain text where there is none. It computes nothing but ratios."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import sqlalchemy
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.figures import ratio
from benchmarks.rivals import STOCK
from benchmarks.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.figures import Series
    from benchmarks.workload import Workload

__all__ = ["Screen"]

_WIDTH = 150


class Screen:
    """Where results are printed."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._plain = not self._console.is_terminal
        if self._plain:
            self._console = Console(highlight=False, width=_WIDTH, no_color=True)

    def title(self, postgres: str) -> None:
        """Say what is measured, and on what."""
        self._console.print(
            f"SQLAlchemy {sqlalchemy.__version__}, Python {platform.python_version()}, PostgreSQL {postgres}. "
            "Ratios (x) are to stock: the median over the rounds of ratios within a round."
        )

    def workload(self, workload: Workload, series: Mapping[str, Series]) -> None:
        """Print the results of one workload."""
        waits = any("wall" in block for one in series.values() for block in one.blocks[:1])
        table = self._table(f"{workload.name}: {workload.sentence}")
        for column in ("", *(_WAITING if waits else _COSTING)):
            table.add_column(column, justify="left" if not column else "right")
        base = series.get(STOCK)
        for name, one in series.items():
            against = series.get(name.replace(name.partition(" @ ")[0], STOCK)) or base
            table.add_row(name, *(_note(one) or (_waiting if waits else _costing)(one, against)))
        self._console.print(table)

    def memory(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Print memory."""
        table = self._table("memory: bytes of Python objects per connection that is out, and per waiting task")
        for column in ("", "per connection out", "per waiter"):
            table.add_column(column, justify="left" if not column else "right")
        for name, figures in results.items():
            table.add_row(
                name, *(f"{figures[key]:,.0f}" if key in figures else "-" for key in ("per connection out", "per waiter"))
            )
        self._console.print(table)

    def targets(self, results: Mapping[str, Mapping[str, Series]]) -> None:
        """Print what was promised beside what was measured."""
        table = self._table("to reach: GuardedPool's ratio to stock, unless said otherwise")
        for column, justify in (("", "left"), ("figure", "left"), ("to reach", "right"), ("measured", "right"), ("", "left")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        for target in TARGETS:
            row = target.verdict(results)
            measured = f"{row['measured']:.3f}" if row["reached"] is not None else "-"
            verdict = {True: "reached", False: "NOT REACHED", None: row["measured"]}[row["reached"]]
            table.add_row(target.what, target.figure, f"<= {target.most:.2f}", measured, str(verdict))
        self._console.print(table)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)

    def _table(self, title: str) -> Table:
        return Table(title=title, title_justify="left", box=box.ASCII if self._plain else box.SIMPLE)


_COSTING = ("time, us", "p20-p80", "p99", "max", "x", "CPU, us", "x CPU", "kernel, us", "bytecodes", "")
_WAITING = ("wall, ms", "p20-p80", "x", "CPU, ms", "x", "wait: median", "p99", "x", "max", "x", "p20-p80", "x", "")


def _note(series: Series) -> tuple[str, ...] | None:
    return (series.note,) if series.note else None


def _x(series: Series, base: Series | None, figure: str) -> str:
    comparable = base is not None and len(base.blocks) == len(series.blocks)
    return f"{ratio(series, base, figure):.2f}" if comparable and base is not None else "-"


def _costing(series: Series, base: Series | None) -> tuple[str, ...]:
    time: dict[str, Any] = series.summary()["time"]
    codes = series.counts.get("bytecodes")
    return (
        f"{time['median'] * 1e6:.2f}", f"{time['p20'] * 1e6:.2f}-{time['p80'] * 1e6:.2f}",
        f"{time['p99'] * 1e6:.2f}", f"{time['max'] * 1e6:.2f}", _x(series, base, "time"),
        f"{series.median('cpu') * 1e6:.2f}", _x(series, base, "cpu"), f"{series.mean('kernel') * 1e6:.1f}",
        f"{codes:.0f}" if codes else "-",
    )  # fmt: skip


def _waiting(series: Series, base: Series | None) -> tuple[str, ...]:
    wall: dict[str, Any] = series.summary()["wall"]
    return (
        f"{wall['median'] * 1e3:.1f}", f"{wall['p20'] * 1e3:.1f}-{wall['p80'] * 1e3:.1f}", _x(series, base, "wall"),
        f"{series.median('cpu') * 1e3:.1f}", _x(series, base, "cpu"), f"{series.median('median wait') * 1e3:.2f}",
        f"{series.median('p99 wait') * 1e3:.1f}", _x(series, base, "p99 wait"),
        f"{series.median('max wait') * 1e3:.1f}", _x(series, base, "max wait"),
        f"{series.median('wait spread') * 1e3:.1f}", _x(series, base, "wait spread"),
    )  # fmt: skip
