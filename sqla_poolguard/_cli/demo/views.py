"""What each act looks like on the screen. It measures nothing and prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sqla_poolguard._cli.charts import bar, skyline
from sqla_poolguard._cli.demo.burst import Burst
from sqla_poolguard._cli.demo.culprit import Culprit
from sqla_poolguard._cli.demo.leak import Leak
from sqla_poolguard._cli.demo.settings import LIMIT, MAX_OVERFLOW, PAYMENT_SECONDS, POOL_SIZE

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from sqla_poolguard._cli.demo.scene import Act

__all__ = ["TITLES", "moral", "view"]

TITLES: Final = {"burst": "The burst", "culprit": "The culprit", "leak": "The leak"}
_CHART_WIDTH, _BESIDE_A_CHART, _NO_CHART_BELOW = 44, 24, 16
"""Characters: of a chart at most, of what stands beside it, of the narrowest that says something."""
_STOCK, _GUARDED, _QUOTE, _NAMED = "yellow", "green", "dim", "bold red"


@dataclass(frozen=True, slots=True)
class _Quotation:
    """Somebody's own words, wrapped with a bar at the left; a place in the code that occurs in it stands out."""

    words: str
    place: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = Text(self.words.replace(" (Background on", "\n(Background on"))  # SQLAlchemy's addition
        if self.place is not None:
            text.highlight_words([self.place], _NAMED)
        rule = "│ " if options.encoding.startswith("utf") else "| "
        for line in text.wrap(console, max(options.max_width - len(rule), 20)):
            line.rstrip()
            yield Text(rule, _QUOTE) + line


def view(act: Act, *, plain: bool) -> Group:
    """Lay out an act; `plain` keeps to ASCII."""
    if isinstance(act, Burst):
        return _burst(act, plain=plain)
    return _culprit(act) if isinstance(act, Culprit) else _leak(cast("Leak", act))


def _burst(act: Burst, *, plain: bool) -> Group:
    rounds = len(act.of("stock"))
    load = Text(
        f"{act.rounds[0].requests} requests at once, a query of 60 ms each, and a login every 250 ms that keeps the processor busy. "
        f"The same application, pool_size={POOL_SIZE}, max_overflow={MAX_OVERFLOW}; "
        f"{f'{rounds} rounds each, in turns; medians' if rounds > 1 else 'one round each'}."
    )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("stock pool", justify="right", style=_STOCK)
    table.add_column("GuardedPool", justify="right", style=_GUARDED)
    table.add_column("", style="bold")
    for name, figure, form in (
        ("requests answered a second", "throughput", "{:.0f}"),
        ("99 of 100 answered within", "p99", "{:.2f} s"),
        ("connections in use at the peak", "peak", "{:.0f}"),
        ("connections in use, typically", "typical", "{:.0f}"),
        ("connections opened", "opened", "{:.0f}"),
    ):
        stock, guarded = (form.format(act.median(pool, figure)) for pool in ("stock", "guarded"))
        ratio = f"x {act.ratio(figure):.2f}" if figure in {"throughput", "p99"} else ""
        table.add_row(name, stock, guarded, ratio)
    return Group(load, "", table, "", _BurstCharts(act, plain))


@dataclass(frozen=True, slots=True)
class _BurstCharts:
    """The charts of a burst, as wide as the terminal allows; none in one so narrow that they would be cut."""

    act: Burst
    plain: bool

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(_CHART_WIDTH, options.max_width - _BESIDE_A_CHART)
        if width >= _NO_CHART_BELOW:
            yield from _burst_charts(self.act, width, plain=self.plain)


def _burst_charts(act: Burst, width: int, *, plain: bool) -> list[Any]:
    names = (("stock", "stock pool", _STOCK), ("guarded", "GuardedPool", _GUARDED))
    fastest = max(act.median(pool, "throughput") for pool, _, _ in names)
    longest = max(act.median_round(pool).seconds for pool, _, _ in names)
    bars = Table.grid(padding=(0, 2, 0, 0))
    lines = Table.grid(padding=(0, 2, 0, 0))
    for pool, name, style in names:
        throughput, typical = act.median(pool, "throughput"), act.median_round(pool)
        drawn = bar(throughput, fastest, width, plain=plain)
        bars.add_row(name, Text(drawn, style), f"{throughput:.0f}")
        over_time = skyline(typical.in_use, longest, LIMIT, width, plain=plain)
        lines.add_row(name, Text(over_time, style), f"{typical.seconds:.1f} s")
    return [
        Text("requests answered a second", "bold"),
        bars,
        Text(f"connections in use, over time (full height: {LIMIT})", "bold"),
        lines,
    ]


def _culprit(act: Culprit) -> Group:
    story = Text(
        f"POST /orders/7/pay takes a connection, then waits {PAYMENT_SECONDS:.0f} s for a payment provider, "
        f"{LIMIT} times at once. Everybody else then finds the pool empty."
    )
    status = act.others[0].status
    answer = (
        Text(f"HTTP {status}", "bold") + Text(f"   Retry-After: {act.retry_after}   ") + Text(str(act.problem.get("reason", "")))
    )
    detail = Text(str(act.problem.get("detail", "")), "italic")
    return Group(
        story,
        "",
        Text("What the stock pool says of it", "bold"),
        _Quotation(act.stock_error),
        Text("What GuardedPool says of it", "bold"),
        _Quotation(act.error, act.marked.place),
        Text("What it had in the log a second before", "bold"),
        _Quotation(act.warning, act.marked.place),
        Text("What stands there", "bold"),
        _Quotation(act.marked.code),
        Text("What the clients get", "bold"),
        Group(Padding(answer, (0, 0, 0, 2)), Padding(detail, (0, 0, 0, 2))),
    )


def _leak(act: Leak) -> Group:
    story = Text(
        f"GET /revenue opens a session and never closes it. {act.answered} of {act.requests} requests get their 200, "
        "and nobody notices; then the garbage collector runs."
    )
    return Group(
        story,
        "",
        Text("What SQLAlchemy logs of it", "bold"),
        _Quotation(act.stock_message),
        Text("What GuardedPool logs of it", "bold"),
        _Quotation(act.messages[0] if act.messages else "nothing", act.marked.place),
        Text("What stands there", "bold"),
        _Quotation(act.marked.code),
    )


def moral(act: Act) -> str:
    """Say in a sentence or two what an act has shown."""
    if isinstance(act, Burst):
        return (
            f"GuardedPool answers {act.ratio('throughput'):.1f} times as many requests a second. The stock pool closes connections "
            f"that come back together, though requests still queue, and goes on with about {act.median('stock', 'typical'):.0f} "
            f"of {LIMIT}; GuardedPool hands each one to the next in line."
        )
    if isinstance(act, Culprit):
        return f"All {LIMIT} connections are held by one line, {act.marked.place}, for {act.age} s: the error says so, and the log did before."
    if isinstance(act, Leak):
        return f"Every leak is named with its line, {act.marked.place}, and the pool has lost no slot."
    return ""
