"""How a plan looks on a screen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sqla_poolguard._cli.charts import bar
from sqla_poolguard._cli.size.quantities import plural, shown_share, shown_time
from sqla_poolguard._cli.size.words import PLAYED, SOLVED, how_words, processes_words, room_words, unsure_words
from sqla_poolguard._sizing import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sqla_poolguard._cli.size.explain import Formula
    from sqla_poolguard._cli.size.given import Inputs
    from sqla_poolguard._plan import Plan, Point

__all__ = ["curve", "explained", "figures", "inputs_read", "sensitivity", "verdict"]

_BAR: Final = 32
_DECADES: Final = 4
"""Of the chart's logarithmic scale, from 0.01 % to 100 %."""


def inputs_read(plan: Plan, inputs: Inputs) -> RenderableType:
    """Show what it is computed from."""
    load, processes = plan.load, plan.service.processes
    table = _grid()
    for each in inputs.measured:
        table.add_row("measured", Text("; ".join((each.source, *each.notes))))
    outside = f", {shown_time(load.outside)} of them outside the database" if load.outside else ""
    words = f"{_number(load.rate)} checkouts/s, held for {shown_time(load.holds.mean)}{outside} ({load.holds.words})"
    table.add_row("load", words + (f", {load.burst} at once" if load.burst > 1 else ""))
    table.add_row("processes", processes_words(processes))
    table.add_row("server", room_words(inputs))
    return table


def figures(plan: Plan) -> RenderableType:
    """Show what one pool needs and may have."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    late = f"at most {shown_share(plan.target.share)} wait longer than {shown_time(plan.target.wait)} ({how_words(plan)})"
    unsure = unsure_words(plan)
    table.add_row(
        "busy on average", f"{plan.busy:.3g}", Text(f"{_number(plan.rate)}/s x {shown_time(plan.load.holds.mean)}", "dim")
    )
    table.add_row("needed", Text(str(plan.demand), "bold"), Text(late, "dim"))
    if unsure:
        table.add_row("", "", Text(unsure, "yellow"))
    if plan.load.nesting > 1:
        table.add_row(
            "deadlock floor",
            Text(str(plan.floor), "bold"),
            Text(f"{plan.load.tasks} tasks with {plan.load.nesting} connections each", "dim"),
        )
    over = plan.size > plan.ceiling
    table.add_row(
        "ceiling",
        Text(str(plan.ceiling), "bold red" if over else "bold"),
        Text(f"{plan.service.usable} usable / {plural(plan.service.processes.pools, 'pool')}", "dim"),
    )
    if plan.knee is not None:
        words = f"of {plan.knee.classic} to {plan.knee.recent} that the server's cores can work for, all pools together"
        table.add_row("working at a time", f"{plan.working:.3g}", Text(words, "dim"))
    table.add_row("if all share", str(plan.shared), Text("that one pooler would need for the whole load", "dim"))
    if plan.verdict is Verdict.NEEDS_POOLER and not plan.shared_certain:
        table.add_row("", "", Text("the safe side: it is not certain that fewer are too few", "yellow"))
    return table


def curve(plan: Plan, *, plain: bool) -> RenderableType:
    """Show how many wait for too long, by size of the pool; each tenth as many is a quarter of the bar."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(min_width=_BAR)
    table.add_column(justify="right")
    table.add_column()
    last = None
    for point in _seen(plan):
        if last is not None and point.size > last + 1:
            table.add_row("..." if plain else "…")
        last = point.size
        enough = point.share <= plan.target.share
        length = max(math.log10(point.share) + _DECADES, 0.0) if point.share > 0 else 0.0
        marks = [
            word
            for size, word in (
                (plan.size, "suggested"),
                (plan.demand if plan.demand < plan.size else 0, "enough for the load"),
                (plan.ceiling, "ceiling"),
            )
            if point.size == size
        ]
        arrow = f"{'<-' if plain else '←'} {', '.join(marks)}" if marks else ""
        drawn = Text(bar(length, _DECADES, _BAR, plain=plain), "green" if enough else "yellow")
        table.add_row(str(point.size), drawn, shown_share(point.share, PLAYED if plan.simulated else SOLVED), Text(arrow, "bold"))
    return table


def _seen(plan: Plan) -> list[Point]:
    """Leave out what lies beyond the first size with which next to nobody waits."""
    beyond = [point.size for point in plan.curve if point.size >= plan.demand and point.share < 10**-_DECADES]
    return [point for point in plan.curve if not beyond or point.size in {*range(beyond[0] + 1), plan.size}]


def sensitivity(plan: Plan, *, plain: bool) -> RenderableType:
    """Show what the same load needs with one thing changed."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("the same load")
    for name in ("hold", "pool_size", "in all"):
        table.add_column(name, justify="right")
    table.add_column(f"of {plan.service.usable}")
    for row in plan.sensitivity:
        fits = row.total <= plan.service.usable
        mark = Text(("ok" if plain else "✓") if fits else ("too many" if plain else "✗ too many"), "green" if fits else "red")
        table.add_row(row.what, shown_time(row.hold), str(row.size), str(row.total), mark)
    return table


def verdict(plan: Plan) -> RenderableType:
    """Show what it comes to."""
    style = "bold green" if plan.verdict is Verdict.FITS else "bold red"
    parts: list[RenderableType] = [Text.assemble((str(plan.verdict).capitalize(), style), ": ", plan.reason, ".")]
    if plan.advice:
        advice = Table.grid(padding=(0, 1, 0, 0))
        for number, sentence in enumerate(plan.advice, 1):
            advice.add_row(f"{number}.", Text(sentence))
        parts.append(Padding(advice, (0, 0, 0, 3)))
    return Group(*parts)


def explained(formulas: list[Formula]) -> RenderableType:
    """Show every formula."""
    table = _grid()
    for formula in formulas:
        table.add_row(formula.name, Group(Text(formula.computed), Text(formula.source, "dim")))
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits
