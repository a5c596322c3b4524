"""What `top` looks like: tables that fit the width and the height there is, with and without colour."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Group as Lines
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from sqla_poolguard._cli.top.figures import holders, monitors, sessions, slots_of, waiters, wasted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from rich.console import Console, RenderableType

    from sqla_poolguard._cli.top.figures import Group
    from sqla_poolguard._cli.top.source import Process

__all__ = ["clock", "draw", "print_once"]

_WIDE: Final = 110
_NARROW: Final = 72
_SIGNS: Final = (("#", "green"), ("!", "bold red"), ("+", "blue"), (">", "yellow"), ("-", "bright_black"), (".", "bright_black"))
_LEGEND: Final = ("# in the database", "! held for nothing", "+ otherwise in use", "> connecting", "- idle", ". free")
_FEWEST: Final = 3
"""Rows of a table that are left for it, if there are as many."""
_FRAME: Final = 3
"""Lines of a table beside its rows."""
_UNKNOWN_HEIGHT: Final = 10_000
_GAP: Final = 2
_PLACE: Final = 20
"""Columns in which a file and a line have room; of the function's name that follows nobody needs the end."""
_NARROWEST: Final = 8
"""Columns that a text has at least, however narrow the terminal is."""


class _Column(NamedTuple):
    """A column: as wide as what is in it, or as the room that the others leave."""

    head: str
    least: int = 0
    most: int | None = None
    right: bool = False
    fills: bool = False


_COUNT: Final = _Column("", 3, right=True)
_LONGEST: Final = _Column("longest", 7, right=True)
_POOL: Final = _Column("pool", most=16)
_PROCESS: Final = _Column("pid", most=7)
_TASK: Final = _Column("task", most=14)


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
    count = sum(len(process.pools) for process in processes)
    said = (
        f"poolguard top  {len(processes)} process{'es' if len(processes) != 1 else ''}, {count} pool{'s' if count != 1 else ''}"
    )
    head = Text(said, style="bold", no_wrap=True)
    gap = width - len(said) - len(note)
    second = Text()
    if gap > 1:
        head.append(" " * gap + note, style="not bold bright_black")
    else:
        second = Text(note, style="bright_black", no_wrap=True, overflow="ellipsis")
    parts: list[RenderableType] = [head, second, _pools(processes, width, rates), _legend(width)]
    troubles = [(f"{process.name}: {process.trouble}", "bold red") for process in processes if process.trouble is not None]
    troubles += [(f"{pool}: {trouble}", "yellow") for pool, trouble in monitors(processes).troubles]
    parts += [_line(_clean(Text(text, style=style))) for text, style in troubles]
    left = (height or _UNKNOWN_HEIGHT) - len(parts) - count - len(processes)
    waiting, held, served, waste = waiters(processes), holders(processes), sessions(processes), wasted(processes)
    ago = f"On the server, {monitors(processes).ago:.1f} s ago"
    wide, common = width >= _WIDE, _Common(len(processes) > 1, count > 1)
    does, session = _Column("does", fills=True), _Column("session", fills=True)
    sections: list[tuple[int, Callable[[int], Table]]] = [  # the most telling first: what has no room is left out from the end
        (len(waiting), lambda shown: _section("Waiting", waiting, shown, width, common, "asked at")),
        (len(held), lambda shown: _section("Holding", held, shown, width, common, "checked out at", does, tasks=wide)),
        (len(served), lambda shown: _section(ago, served, shown, width, common, "held at", session)),
        (len(waste), lambda shown: _wasted(waste[:shown], width)),
    ]
    if not held:
        parts += [Text(), Text("Nobody holds a connection.", style="bright_black")]
        left -= 2
    needs = [min(rows, _FEWEST) + _FRAME if rows else 0 for rows, _ in sections]
    while sum(needs) > left and any(needs[1:]):
        needs[max(number for number, need in enumerate(needs) if need)] = 0
    for number, (rows, table) in enumerate(sections):
        room = left - _FRAME - sum(needs[number + 1 :])
        if not needs[number] or room < 1:
            continue
        shown = rows if rows <= room else max(room - 1, 1)
        parts += [Text(), table(shown)]
        if shown < rows:
            parts.append(Text(f"  and {rows - shown} more", style="bright_black"))
        left -= shown + _FRAME + (shown < rows)
    return Lines(*parts)


def print_once(console: Console, processes: Sequence[Process], width: int) -> None:
    """Print everything, for a file as well as for a person: no line ends in blanks."""
    lines = console.render_lines(
        draw(processes, width=width, height=None, note=clock(), rates={}), console.options.update(width=width), pad=False
    )
    segments = []
    for line in lines:
        while line and not line[-1].text.rstrip():
            line.pop()
        if line:
            line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
        segments += [*line, Segment.line()]
    console.print(Segments(segments), end="", soft_wrap=True)


class _Common(NamedTuple):
    """Of what there are several, so that it has to be named."""

    processes: bool
    pools: bool


def _section(
    title: str,
    rows: Sequence[Group],
    shown: int,
    width: int,
    several: _Common,
    where: str,
    does: _Column | None = None,
    *,
    tasks: bool = False,
) -> Table:
    """Draw the first groups; the pool or the process that all of them have in common, also those not shown, stands in the title."""
    pools, numbers = {row.pool for row in rows}, {row.process.split()[0] for row in rows}
    common = [
        *(pools if several.pools and len(pools) == 1 else ()),
        *(numbers if several.processes and len(numbers) == 1 else ()),
    ]
    parts: list[tuple[_Column, Callable[[Group], str | Text]]] = [
        (_COUNT, lambda row: f"{row.count} x"),
        (_LONGEST, lambda row: _bad(_seconds(row.longest), wrong=row.wrong)),
    ]
    parts += [(_POOL, lambda row: row.pool)] if len(pools) > 1 else []
    parts += [(_PROCESS, lambda row: row.process.split()[0])] if len(numbers) > 1 else []
    parts += [(does, _does)] if does is not None else []
    parts.append((_Column(where, fills=True), lambda row: row.where))
    parts += [(_TASK, lambda row: row.task)] if tasks else []
    cells = [[cell(row) for _, cell in parts] for row in rows[:shown]]
    return _table(f"{title} ({', '.join(common)})" if common else title, [column for column, _ in parts], cells, width)


def _does(row: Group) -> Text:
    return Text(row.does, style="bold red" if row.wrong else "green" if row.good else "")


def _table(title: str | None, columns: Sequence[_Column], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """Make a table that is as wide as the terminal. What an application calls things is text: neither markup nor a terminal's codes."""
    table = Table(
        title=_clean(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="bright_black",
    )
    clean = [[_clean(cell) for cell in row] for row in rows]
    for column, room in zip(columns, _widths(columns, clean, width), strict=True):
        justify: Any = "right" if column.right else "left"
        table.add_column(column.head, no_wrap=True, overflow="ellipsis", justify=justify, width=room)
    for row in clean:
        table.add_row(*row)
    return table


def _widths(columns: Sequence[_Column], rows: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Tell how wide each column is: those that fill the room share it by what they need."""
    wanted = [
        max(cell_len(column.head), column.least, *(row[number].cell_len for row in rows), 1)
        for number, column in enumerate(columns)
    ]
    widths = [min(want, column.most or want) for want, column in zip(wanted, columns, strict=True)]
    filling = [number for number, column in enumerate(columns) if column.fills]
    room = width - _GAP * (len(columns) - 1) - sum(widths) + sum(widths[number] for number in filling)
    for place, number in enumerate(filling):
        later = filling[place + 1 :]
        share = max(room - _PLACE * len(later), room // 2) if later else room
        widths[number] = max(min(wanted[number], max(share, room - sum(wanted[other] for other in later))), _NARROWEST)
        if not later:
            widths[number] = max(room, _NARROWEST)
        room -= widths[number]
    return widths


def _pools(processes: Sequence[Process], width: int, rates: Mapping[tuple[str, str], float]) -> Table:
    wide = width >= _WIDE
    bar = 30 if wide else 20 if width >= _NARROW else 10
    columns = [_Column("process, pool", fills=True), _Column("slots", bar), _Column("out", 5, right=True)]
    columns += [_Column("idle", right=True), _Column("waiting", right=True), _LONGEST]
    columns += [_Column("checkouts/s", right=True), _Column("refused", right=True)] if wide else []
    rows: list[list[str | Text]] = []
    for process in processes:
        rows.append([process.name, *[""] * (len(columns) - 1)])
        for pool in process.pools:
            longest = max((waiter["waited"] for waiter in pool["waiters"]), default=0.0)
            limit = "" if slots_of(pool).free is None else f"/{pool['pool_size'] + pool['max_overflow']}"
            row: list[str | Text] = [f"  {pool['pool']}", _bar(pool, bar), f"{pool['used']}{limit}", str(pool["idle"])]
            row += [
                _bad(str(pool["waiting"]), wrong=bool(pool["waiters"])),
                _bad(_seconds(longest) if longest else "", wrong=longest >= 1),
            ]
            if wide:
                rate = rates.get((process.name, pool["pool"]))
                refused = sum(pool.get("rejected", {}).values())
                row += ["" if rate is None else f"{rate:.0f}", _bad(str(refused), wrong=refused > 0)]
            if pool.get("downtime") is not None:
                row[1] = _bad("database out of reach", wrong=True)
            rows.append(row)
    return _table(None, columns, rows, width)


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


def _wasted(rows: Sequence[tuple[float, str, str]], width: int) -> Table:
    columns = [_Column("conn. s", 7, right=True), _Column("awaiting", fills=True), _Column("at", fills=True)]
    return _table("Wasted, by line", columns, [[_seconds(seconds), awaiting, where] for seconds, awaiting, where in rows], width)


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


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
