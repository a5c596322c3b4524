"""What `top` draws: groups, bars, and no line that is too long or one too many."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from sqla_poolguard._cli.top.figures import holders, is_wrong, place, slots_of, wasted
from sqla_poolguard._cli.top.screen import draw, print_once
from sqla_poolguard._cli.top.source import Process

SITE = {"file": "/srv/app/orders/views.py", "line": 48, "function": "list_orders.<locals>.inner"}
AWAITS = {"file": "/srv/app/orders/payments.py", "line": 7, "function": "charge"}


def holder(held=5.0, state="awaiting", **more):
    """Make a holder."""
    awaiting = "httpx AsyncClient.get" if state == "awaiting" else None
    base = {"site": SITE, "task": "Task-1", "held": held, "waited": 0.0, "overdue": False, "state": state, "current": AWAITS}
    return {**base, "awaiting": awaiting, "in_database": 0.1, "declared": None, **more}


def pool(*held, waiting=(), size=10, overflow=5, **more):
    """Make a pool."""
    waiters = [{"site": SITE, "task": None, "waited": seconds, "held": 0.0} for seconds in waiting]
    counts = {"idle": 1, "used": len(held), "connecting": 2, "waiting": len(waiting)}
    base = {"pool": "orders", "pool_size": size, "max_overflow": overflow, **counts, "holders": list(held), "waiters": waiters}
    return {**base, "rejected": {"timeout": 3}, "waste": [{"site": AWAITS, "awaiting": "httpx", "seconds": 12.5}], **more}


def test_same_line_same_deed_is_one_row():
    """Holders are counted by process, pool, line and what they do; the longest is shown first."""
    process = Process("7 app", (pool(holder(3.0), holder(9.0), holder(4.0, "in_database")),))
    first, second = holders([process])
    assert (first.count, first.longest, first.wrong, first.task) == (2, 9.0, True, "")
    assert first.does == "awaits httpx AsyncClient.get at payments.py:7"
    assert (second.count, second.does, second.good, second.wrong) == (1, "in the database", True, False)
    assert first.where == "orders/views.py:48 in list_orders.inner"


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        (pool(holder(0.5)), False),
        (pool(holder(2.0)), True),
        (pool(holder(2.0, in_database=1.9)), False),
        (pool(holder(2.0, declared="leader")), False),
        (pool(holder(9.0, "in_database")), False),
        (pool(holder(9.0, "in_database", overdue=True)), True),
        (pool(holder(2.0, "orphaned")), True),
        (pool(holder(2.0, None)), False),
        (pool(waiting=[0.2]), False),
        (pool(waiting=[0.2, 1.2]), True),
        (pool(downtime={"lasted": 1.0}), True),
    ],
)
def test_what_is_wrong(what, wrong):
    """A second is what a hold for nothing, or a wait, may take; a long query is right."""
    assert is_wrong([Process("7", (what,))]) is wrong
    assert is_wrong([Process("7", (what,), "it does not answer")]) is True


def test_slots_add_up():
    """Every slot is one thing; without a limit nothing is free."""
    slots = slots_of(pool(holder(), holder(state="in_database"), holder(state="running")))
    assert (slots.database, slots.wrong, slots.used, slots.connecting, slots.idle, slots.free) == (1, 1, 1, 2, 1, 9)
    assert slots_of(pool(size=0)).free is None


def test_places_and_waste():
    """A path is shown by its end; what is not known is said so; seconds are summed over processes."""
    assert place(None) == "an unknown line"
    assert place({"file": "C:\\x\\y\\a.py", "line": 1, "function": "f"}) == "y/a.py:1 in f"
    assert place({"file": "/v/site-packages/lib/deep/a.py", "line": 1, "function": "f"}) == "deep/a.py:1 in f"
    assert wasted([Process("1", (pool(),)), Process("2", (pool(),))]) == [(25.0, "httpx", "orders/payments.py:7 in charge")]


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("height", [12, 24, None])
def test_it_fits(width, height, colour):
    """No line is wider, and no screen higher, than the terminal, whatever there is to show; wrong things show without colour too."""
    many = [holder(float(number), site={**SITE, "line": number}) for number in range(2, 60)]
    processes = [
        Process("101 app", (pool(*many, waiting=[2.0] * 3, size=50, overflow=50), pool(holder(), pool="audit"))),
        Process("102 a-program-with-a-long-name.py", (pool(waiting=[0.1], pool="a pool with a very long name indeed" * 3),)),
        Process("103", trouble="it does not answer"),
    ]
    out = io.StringIO()
    console = Console(
        file=out, width=width, height=height or 25, color_system="truecolor" if colour else None, force_terminal=colour
    )
    console.print(draw(processes, width=width, height=height, note="12:00:00  every 2 s  q quits", rates={}))
    plain = Console(file=io.StringIO(), width=width, record=True)
    plain.print(draw(processes, width=width, height=height, note="12:00:00  every 2 s  q quits", rates={}))
    lines = plain.export_text().rstrip("\n").split("\n")
    assert all(len(line) <= width for line in lines)
    assert height is None or len(lines) <= height
    assert lines[3].rstrip() == "101 app"
    assert "!!!!" in lines[4]
    assert any("it does not answer" in line for line in lines)
    if height != 12:
        assert any("Waiting" in line for line in lines), "who waits is never what has no room"
        assert any("Holding" in line for line in lines)
        assert any("more" in line for line in lines) or height is None
    assert ("\x1b[" in out.getvalue()) is colour


def shown(*processes, width=80, height=None):
    """Draw; give the lines without the blanks at their ends."""
    out = Console(file=io.StringIO(), width=width, record=True)
    out.print(draw(processes, width=width, height=height, note="12:00:00", rates={}))
    return [line.rstrip() for line in out.export_text().rstrip("\n").split("\n")]


def test_on_eighty_columns_names_are_whole():
    """The process with its number, a pool, what is awaited at which line, and the line that checked out; nothing common is repeated."""
    waits = {**AWAITS, "file": "/srv/app/views.py", "function": "pay"}
    lines = shown(Process("28496 order-service.py", (pool(holder(current=waits), waiting=[0.2]), pool(pool="audit-log-of-all"))))
    assert "28496 order-service.py" in lines
    assert any(line.startswith("  audit-log-of-all  ") for line in lines)
    assert "Waiting (orders)" in lines
    assert lines[lines.index("Holding (orders)") + 2].startswith(
        "1 x    5.0 s  awaits httpx AsyncClient.get at views.py:7  orders/views.py:48"
    )


def session(state, age, blocked_by=(), blocks=0, waits_for=None, site=SITE):
    """Make a row of a monitor."""
    there = {"pid": 7, "state": state, "state_age": age, "waits_for": waits_for, "locks": 1}
    return {"holder": {"site": site}, "session": there, "blocked_by": list(blocked_by), "blocks": blocks}


def test_what_the_server_said_is_shown():
    """Sessions by what they do and their line, with who blocks whom; what is not known is left out, and why is said."""
    rows = [session("idle in transaction", 4.0, blocks=2)]
    rows += [session("active", age, [{"pid": 7, "holder": {"site": AWAITS}}], waits_for="Lock: tuple") for age in (1.0, 3.0)]
    rows += [
        session("active", 2.5, [{"pid": 99, "holder": None}], waits_for="Lock: tuple", site=AWAITS),
        {**rows[0], "session": None},
    ]
    told = {"ago": 1.25, "trouble": None, "rows": rows}
    lost = {"ago": 0.5, "trouble": "the server cannot be asked", "rows": [{**rows[0], "session": None}]}
    lines = shown(
        Process("7 app", (pool(holder(), monitor=told), pool(pool="audit", monitor=lost), pool(pool="old", monitor=None)))
    )
    begin = lines.index("On the server, 1.2 s ago (orders)")
    assert lines[begin + 2 : begin + 5] == [
        "1 x    4.0 s  blocks 2, idle in transaction           orders/views.py:48 in lis…",
        "2 x    3.0 s  blocked by payments.py:7 (Lock: tuple)  orders/views.py:48 in lis…",
        "1 x    2.5 s  blocked by process 99 (Lock: tuple)     orders/payments.py:7 in c…",
    ]
    assert "audit: the server cannot be asked" in lines


def test_what_is_not_shown_is_not_spoken_for():
    """Where the rows that have no room are of another process, the title does not name the one whose are shown."""
    first = Process("7 app", (pool(*(holder(float(90 - line), site={**SITE, "line": line}) for line in range(30))),))
    lines = shown(first, Process("8 app", (pool(holder(2.0)),)), height=20)
    begin = lines.index("Holding (orders)")
    assert lines[begin + 1].split() == ["longest", "pid", "does", "checked", "out", "at"]
    assert lines[begin + 2].startswith("1 x   90.0 s  7    awaits httpx AsyncClient.get at ")


def test_once_leaves_no_blanks_at_the_ends(monkeypatch):
    """What is printed for a file has none, with and without colour."""
    for colour in (None, "truecolor"):
        out = io.StringIO()
        console = Console(file=out, width=80, color_system=colour, force_terminal=colour is not None)
        print_once(console, [Process("7 app", (pool(holder(), waiting=[2.0]),))], 80)
        lines = out.getvalue().split("\n")
        assert len(lines) > 12
        assert [line for line in lines if re.search(r"[ \t](\x1b\[[0-9;]*m)*$", line)] == []


def test_names_are_text_and_nothing_else():
    """Neither rich's markup nor a terminal's codes come through: a task or a pool may be called anything."""
    evil = "[red]x[/red] \x1b]0;owned\x07 [/]"
    out = Console(file=io.StringIO(), width=120, record=True, force_terminal=True)
    shown = Process(f"7 {evil}", (pool(holder(task=evil, awaiting=evil), pool=evil),), trouble=evil)
    out.print(draw([shown], width=120, height=None, note="", rates={}))
    assert "[red]x[/red] ?]0;owned" in out.export_text(clear=False)
    assert "\x1b]0" not in out.export_text(styles=True)


def test_a_long_note_is_shown_on_its_own_line():
    """What went wrong is not lost on a narrow screen."""
    out = Console(file=io.StringIO(), width=40, record=True)
    out.print(draw([], width=40, height=10, note="no process to look at", rates={}))
    assert "no process to look at" in out.export_text()
