"""What `top` looks like: tables that fit the width and the height there is, with and without colour."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from sqla_poolguard._cli.top.figures import holders, slots_of, waiters, wasted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from rich.console import RenderableType

    from sqla_poolguard._cli.top.figures import Group
    from sqla_poolguard._cli.top.source import Process

__all__ = ["draw"]

_WIDE: Final = 110
_SIGNS: Final = (("#", "green"), ("!", "bold red"), ("+", "blue"), (">", "yellow"), ("-", "bright_black"), (".", "bright_black"))
_LEGEND: Final = ("# in the database", "! held for nothing", "+ otherwise in use", "> connecting", "- idle", ". free")
_FEWEST: Final = 3
"""Rows of a table that are left for it, if there are as many."""
_FRAME: Final = 3
"""Lines of a table beside its rows."""
_UNKNOWN_HEIGHT: Final = 10_000


def draw(
    processes: Sequence[Process], *, width: int, height: int | None, note: str, rates: Mapping[tuple[str, str], float]
) -> Lines:
    """
    Draw everything.

    Args:
        processes: what they told.
        width: columns there are.
        height: rows there are; None for as many as it takes.
        note: what is said at the right of the first line.
        rates: checkouts each second, by process and pool.
    """
    several = len(processes) > 1
    count = sum(len(process.pools) for process in processes)
    said = f"poolguard top  {len(processes)} process{'es' if several else ''}, {count} pool{'s' if count != 1 else ''}"
    head = Text(said, style="bold", no_wrap=True)
    gap = width - len(said) - len(note)
    second = Text()
    if gap > 1:
        head.append(" " * gap + note, style="not bold bright_black")
    else:
        second = Text(note, style="bright_black", no_wrap=True, overflow="ellipsis")
    parts: list[RenderableType] = [head, second, _pools(processes, width, rates), _legend(width)]
    troubles = [process for process in processes if process.trouble is not None]
    parts += [_clean(Text(f"{process.name}: {process.trouble}", style="bold red")) for process in troubles]
    left = (height or _UNKNOWN_HEIGHT) - len(parts) - count
    waiting, held, waste = waiters(processes), holders(processes), wasted(processes)
    sections: list[tuple[int, Callable[[int], Table]]] = [
        (len(waiting), lambda shown: _waiting(waiting[:shown], several=several)),
        (len(held), lambda shown: _holding(held[:shown], width, several=several)),
        (len(waste), lambda shown: _wasted(waste[:shown])),
    ]
    if not held:
        parts += [Text(), Text("Nobody holds a connection.", style="bright_black")]
        left -= 2
    for number, (rows, table) in enumerate(sections):
        later = sum(min(more, _FEWEST) + _FRAME for more, _ in sections[number + 1 :] if more)
        room = left - _FRAME - later
        if not rows or room < 1:
            continue
        shown = rows if rows <= room else max(room - 1, 1)
        parts += [Text(), table(shown)]
        if shown < rows:
            parts.append(Text(f"  and {rows - shown} more", style="bright_black"))
        left -= shown + _FRAME + (shown < rows)
    return Lines(*parts)


def _table(title: str, *columns: tuple[str, dict[str, Any]]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=True, header_style="bright_black"
    )
    for name, options in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis", **options)
    return table


def _pools(processes: Sequence[Process], width: int, rates: Mapping[tuple[str, str], float]) -> Table:
    wide, number = width >= _WIDE, {"justify": "right", "min_width": 4}
    columns: list[tuple[str, dict[str, Any]]] = [("process", {"max_width": 24 if wide else 14}), ("pool", {"ratio": 1})]
    columns += [("slots", {"min_width": 30 if wide else 20}), ("out", {"justify": "right", "min_width": 5}), ("idle", number)]
    columns += [("waiting", number), ("longest", {"justify": "right", "min_width": 7})]
    if wide:
        columns += [("checkouts/s", {"justify": "right"}), ("refused", {"justify": "right"})]
    table = _table("", *columns)
    table.title = None
    for process in processes:
        for pool in process.pools:
            longest = max((waiter["waited"] for waiter in pool["waiters"]), default=0.0)
            slots = slots_of(pool)
            limit = "" if slots.free is None else f"/{pool['pool_size'] + pool['max_overflow']}"
            cells = [process.name, pool["pool"], _bar(pool, 30 if wide else 20), f"{pool['used']}{limit}", str(pool["idle"])]
            cells += [
                _bad(str(pool["waiting"]), wrong=bool(pool["waiters"])),
                _bad(_seconds(longest) if longest else "", wrong=longest >= 1),
            ]
            if wide:
                rate = rates.get((process.name, pool["pool"]))
                refused = sum(pool.get("rejected", {}).values())
                cells += ["" if rate is None else f"{rate:.0f}", _bad(str(refused), wrong=refused > 0)]
            _add(table, *cells)
            if pool.get("downtime") is not None:
                _add(table, "", _bad("the database cannot be reached", wrong=True))
    return table


def _bar(pool: Mapping[str, Any], width: int) -> Text:
    """Draw the slots, one sign each where they fit, else in proportion; what there is at all shows."""
    slots = slots_of(pool)
    counts = [slots.database, slots.wrong, slots.used, slots.connecting, slots.idle, slots.free or 0]
    total = sum(counts)
    if total > width:
        cells = [max(count * width // total, 1) if count else 0 for count in counts]
        while sum(cells) > width:
            cells[cells.index(max(cells))] -= 1
        cells[cells.index(max(cells))] += width - sum(cells)
        counts = cells
    bar = Text()
    for count, (sign, style) in zip(counts, _SIGNS, strict=True):
        bar.append(sign * count, style=style)
    return bar


def _legend(width: int) -> Text:
    legend = Text(style="bright_black", no_wrap=True)
    legend.append(
        "   ".join(_LEGEND)
        if width >= _WIDE
        else "  ".join(_LEGEND).replace("in the database", "database").replace("otherwise in use", "in use")
    )
    return legend


def _holding(rows: Sequence[Group], width: int, *, several: bool) -> Table:
    wide = width >= _WIDE
    columns: list[tuple[str, dict[str, Any]]] = [("", {"justify": "right"}), ("longest", {"justify": "right", "min_width": 7})]
    columns += [("pool", {"max_width": 16}), *([("process", {"max_width": 7})] if several else [])]
    columns += [
        ("does", {"ratio": 4 if wide else 5}),
        ("checked out at", {"ratio": 3}),
        *([("task", {"max_width": 14})] if wide else []),
    ]
    table = _table("Holding", *columns)
    for row in rows:
        does = Text(row.does, style="bold red" if row.wrong else "green" if row.good else "")
        cells: list[str | Text] = [f"{row.count} x", _bad(_seconds(row.longest), wrong=row.wrong), row.pool]
        cells += [row.process.split()[0]] if several else []
        _add(table, *cells, does, row.where, *([row.task] if wide else []))
    return table


def _waiting(rows: Sequence[Group], *, several: bool) -> Table:
    columns: list[tuple[str, dict[str, Any]]] = [("", {"justify": "right"}), ("longest", {"justify": "right", "min_width": 7})]
    columns += [("pool", {"max_width": 16}), *([("process", {"max_width": 7})] if several else []), ("asked at", {"ratio": 1})]
    table = _table("Waiting", *columns)
    for row in rows:
        cells: list[str | Text] = [f"{row.count} x", _bad(_seconds(row.longest), wrong=row.wrong), row.pool]
        _add(table, *cells, *([row.process.split()[0]] if several else []), row.where)
    return table


def _wasted(rows: Sequence[tuple[float, str, str]]) -> Table:
    table = _table(
        "Wasted, by line",
        ("conn. s", {"justify": "right", "min_width": 7}),
        ("awaiting", {"ratio": 1}),
        ("at", {"ratio": 1}),
    )
    for seconds, awaiting, where in rows:
        _add(table, _seconds(seconds), awaiting, where)
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """Add a row. What an application calls things is text: neither rich's markup nor codes that a terminal obeys."""
    table.add_row(*(_clean(cell) for cell in cells))


def _clean(text: str | Text) -> Text:
    plain = text.plain if isinstance(text, Text) else text
    if not plain.isprintable():
        plain = "".join(character if character.isprintable() else "?" for character in plain)
        return Text(plain, style=text.style if isinstance(text, Text) else "")
    return text if isinstance(text, Text) else Text(text)


def _bad(text: str, *, wrong: bool) -> Text:
    return Text(text, style="bold red" if wrong else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 1000 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 - what fits the column


def clock() -> str:
    """Give the time of day."""
    return time.strftime("%H:%M:%S")
