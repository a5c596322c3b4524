"""The debug page in HTML: one document without scripts or foreign resources. Every text of the application is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from sqla_poolguard._facts import HolderState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqla_poolguard._facts import Holder, PoolSnapshot
    from sqla_poolguard._finding import Finding
    from sqla_poolguard._monitor.facts import MonitorRow, Session, Told

__all__ = ["draw"]

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #fff; --ink: #22262b; --quiet: #6a7078; --line: #e3e1da;
  --database: #2f7d5b; --used: #4a78b5; --wrong: #b8442f; --idle: #b9c4cf; --opening: #c99a2e; --free: #eceae4; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --card: #1e2124; --ink: #e4e6e8; --quiet: #98a0a8;
  --line: #33383d; --database: #5fb98f; --used: #7da8e0; --wrong: #ee8570; --idle: #56616b; --opening: #d9b25c; --free: #2a2e32; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; align-items: baseline; color: var(--quiet); }
h1 { font-size: 1.1rem; margin: 0; color: var(--ink); } h2 { font-size: 1.35rem; margin: 0 0 .6rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .3rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem 1.2rem; margin-top: 1.2rem; }
a { color: inherit } code { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.bar { display: flex; height: 1.5rem; gap: 2px; border-radius: 5px; overflow: hidden; background: var(--free); }
.bar span { min-width: 3px } .database { background: var(--database) } .used { background: var(--used) }
.wrong { background: var(--wrong) } .opening { background: var(--opening) } .idle { background: var(--idle) }
.legend, .totals { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .5rem 0 0; padding: 0; list-style: none; }
.legend i { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .4em; }
.totals, .none, .by { color: var(--quiet) } .none { margin: .2rem 0 }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 500; color: var(--quiet); font-size: .85rem; }
th, td { padding: .3rem .8rem .3rem 0; border-top: 1px solid var(--line); vertical-align: top; }
tr > :last-child { padding-right: 0 } td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.bad { color: var(--wrong); font-weight: 600 } td.good { color: var(--database) } .by { display: block; font-size: .85rem; font-weight: 400; }
"""
_DOING: Final = {
    HolderState.IN_DATABASE: "in the database",
    HolderState.RUNNING: "running",
    HolderState.ORPHANED: "its task has finished",
    HolderState.NESTED: "wants another connection of this pool",
    HolderState.AWAITING: "awaits something else",
}
_WRONG: Final = {HolderState.AWAITING, HolderState.NESTED, HolderState.ORPHANED}
_NOTHING: Final = '<span class="by">not known</span>'


def draw(pools: Sequence[PoolSnapshot], at: str, refresh: int | None, told: Sequence[Told | None] = ()) -> str:
    """
    Draw the page.

    Args:
        pools: what to show.
        at: the moment, for the reader.
        refresh: seconds after which the browser loads it anew; None for never.
        told: what a monitor knows of each of them, if one runs.
    """
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    switch = f'every {refresh} s, <a href="?">stop</a>' if refresh else '<a href="?refresh=2">refresh every 2 s</a>'
    sections = "".join(map(_pool, pools, [*told, *[None] * (len(pools) - len(told))]))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">{again}<title>Connection pools</title><style>{_STYLE}</style></head>'
        f"<body><header><h1>Connection pools</h1><span>{escape(at)}</span><span>{switch}</span>"
        f'<span><a href="?format=json">JSON</a></span></header>{sections}</body></html>'
    )


def _pool(seen: PoolSnapshot, told: Told | None) -> str:
    return (
        f"<section><h2>{escape(seen.pool)}</h2>{_bar(seen)}{_totals(seen)}"
        + _table(
            f"{len(seen.holders)} held",
            ("held", "does", "checked out at", "task"),
            (_holder(each) for each in seen.holders),
            "Nobody holds a connection.",
        )
        + (_server(told) if told is not None else "")
        + _table(
            f"{seen.waiting} waiting" + (f", the oldest {len(seen.waiters)}" if seen.waiting > len(seen.waiters) > 0 else ""),
            ("waits", "asked at", "task"),
            ((_seconds(each.waited), _code(each.site), _text(each.task)) for each in seen.waiters),
            "Nobody queues.",
        )
        + _table(
            "Found wrong",
            ("times", "what", "where", "checked out at"),
            (_finding(each) for each in seen.findings),
            "Nothing so far.",
        )
        + _table(
            "Wasted, by line",
            ("connection-seconds", "awaiting", "at"),
            ((_seconds(each.seconds), _code(each.awaiting), _code(each.site)) for each in seen.waste),
            "Nothing so far.",
        )
        + _table(
            "Declared to be right",
            ("declared", "excused", "reason"),
            ((_number(each.entered), _number(each.matched), _text(each.reason)) for each in seen.declared),
            "",
        )
        + "</section>"
    )


def _server(told: Told) -> str:
    """Draw what the server said of the holders' sessions; those of another moment than the holders above."""
    none = "Nobody held a connection." if told.trouble is None else f"Nothing is known: {told.trouble}."
    title = f"On the server, {told.ago:.1f} s ago"
    heads = ("process", "state", "since", "locks", "blocked by", "held at")
    return _table(title, heads, (_session(row, row.session) for row in told.rows if row.session is not None), none)


def _session(row: MonitorRow, session: Session) -> tuple[str, ...]:
    notes = [f"waits for {session.waits_for}"] if session.waits_for else []
    if session.transaction_age is not None:
        notes.append(f"transaction began {session.transaction_age:.1f} s before")
    blocks = [f"{row.blocks} wait for it"] if row.blocks else []
    mark = "bad" if row.blocks and session.is_idle_in_transaction else "good" if session.state == "active" else ""
    return (
        _number(session.pid),
        f'<td class="{mark}">{escape(session.state or "not shown to this role")}{_notes(notes)}</td>',
        _seconds(session.state_age) if session.state_age is not None else _text(None),
        f'<td class="n{" bad" if row.blocks else ""}">{session.locks}{_notes(blocks)}</td>',
        f"<td>{_notes(map(str, row.blocked_by))}</td>",
        _code(row.holder.site),
    )


def _bar(seen: PoolSnapshot) -> str:
    """Draw the slots, and say in words what the colours mean."""
    wrong = sum(_is_wrong(holder) for holder in seen.holders)
    database = sum(holder.state is HolderState.IN_DATABASE for holder in seen.holders)
    parts = (
        ("database", database, "in the database"),
        ("used", max(seen.used - wrong - database, 0), "otherwise in use"),
        ("wrong", wrong, "held for nothing"),
        ("opening", seen.connecting, "opening"),
        ("idle", seen.idle, "idle"),
    )
    rest = 0 if seen.limit is None else max(seen.limit - seen.used - seen.connecting - seen.idle, 0)
    spans = "".join(f'<span class="{name}" style="flex:{count}"></span>' for name, count, _ in parts if count)
    empty = f'<span style="flex:{rest}"></span>' if rest else ""
    words = "".join(f'<li><i class="{name}"></i>{count} {word}</li>' for name, count, word in parts)
    limit = "no limit" if seen.limit is None else f"of {seen.pool_size} + {seen.max_overflow}"
    return f'<div class="bar">{spans}{empty}</div><ul class="legend">{words}<li class="by">{limit}</li></ul>'


def _totals(seen: PoolSnapshot) -> str:
    totals = (
        f"asked for {seen.requested}",
        f"granted {seen.granted}",
        f"opened {seen.opened}",
        *_counts("refused", seen.rejected),
        *_counts("ended", seen.ended),
    )
    return f'<ul class="totals">{"".join(f"<li>{escape(each)}</li>" for each in totals)}</ul>'


def _counts(what: str, by: Mapping[str, int]) -> list[str]:
    return [f"{what}, {str(key).replace('_', ' ')}: {count}" for key, count in by.items() if count]


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], none: str) -> str:
    """Draw a table; each cell is HTML, with its tag."""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    if not body:
        return f'<h3>{escape(title)}</h3><p class="none">{escape(none)}</p>' if none else ""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    return f'<h3>{escape(title)}</h3><div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _is_wrong(holder: Holder) -> bool:
    return holder.state in _WRONG and holder.declared is None


def _holder(holder: Holder) -> tuple[str, ...]:
    doing = _DOING[holder.state] if holder.state is not None else "not known"
    if holder.awaiting:
        doing = f"awaits {holder.awaiting}"
    notes = [f"at {holder.current}"] if holder.current is not None else []
    notes += [*holder.details]
    if holder.in_database is not None:
        notes.append(f"{holder.in_database:.1f} s of it in the database")
    if holder.declared is not None:
        notes.append(f"declared: {holder.declared}")
    mark = "bad" if _is_wrong(holder) else "good" if holder.state is HolderState.IN_DATABASE else ""
    return (
        f'<td class="n{" bad" if holder.overdue else ""}">{holder.held:.1f} s</td>',
        f'<td class="{mark}">{escape(doing)}{_notes(notes)}</td>',
        _code(holder.site, *(f"from {site}" for site in holder.stack)),
        _text(holder.task),
    )


def _finding(finding: Finding) -> tuple[str, ...]:
    what = str(finding.kind).replace("_", " ")
    awaits = [f"awaits {finding.awaiting}"] if finding.awaiting else []
    notes = [*awaits, f"held for {finding.held:.1f} s", *finding.details]
    if finding.trace_id:
        notes.append(f"trace {finding.trace_id}")
    return (
        _number(finding.count),
        f'<td class="bad">{escape(what)}{_notes(notes)}</td>',
        _code(finding.current),
        _code(finding.site),
    )


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<code class="by">{escape(note)}</code>' for note in notes)


def _code(what: object, *notes: str) -> str:
    return f"<td>{_NOTHING if what is None else f'<code>{escape(str(what))}</code>'}{_notes(notes)}</td>"


def _text(what: str | None) -> str:
    return f"<td>{_NOTHING if what is None else escape(what)}</td>"


def _number(count: int) -> str:
    return f'<td class="n">{count}</td>'


def _seconds(seconds: float) -> str:
    return f'<td class="n">{seconds:.1f} s</td>'
