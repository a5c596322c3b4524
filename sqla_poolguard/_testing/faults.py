"""What is wrong with a test's connections, in words: the line, the task, what it awaited, and what helps."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqla_poolguard._facts import Site
    from sqla_poolguard._testing.stays import Stay

__all__ = ["LEAKS", "Fault", "FaultKind", "describe", "fault_of", "put_down_to"]

_MOST_SHOWN: Final = 8
_CALLERS_SHOWN: Final = 3
_NOT_TO_BLAME: Final = ": this test is not to blame"


class FaultKind(enum.StrEnum):
    """What is wrong with one connection of a test."""

    LEFT_OUT = "left_out"
    """It was still checked out when the test had ended."""
    ORPHANED = "orphaned"
    """Likewise, and the task that checked it out has finished."""
    LEAKED = "leaked"
    """It was never closed: the garbage collector found it."""
    IN_BACKGROUND = "in_background"
    """A task that the test has begun still held it when the test had ended, and did not give it back in time."""
    HELD_ACROSS_AWAIT = "held_across_await"
    """A line awaited something else than the database for longer than `poolguard_max_foreign_await`, and had it meanwhile."""
    FORBIDDEN_CALL = "forbidden_call"
    """A call was made with it that `poolguard_forbidden_calls` forbids."""
    OVERDUE = "overdue"
    """It was out longer than `poolguard_max_hold`."""
    NESTED = "nested"
    """Its task had more connections of the pool than `poolguard_max_nesting`."""


LEAKS: Final = frozenset({FaultKind.LEFT_OUT, FaultKind.ORPHANED, FaultKind.LEAKED, FaultKind.IN_BACKGROUND})

_HEADLINES: Final = {
    FaultKind.LEFT_OUT: "connection still checked out at the end",
    FaultKind.ORPHANED: "connection orphaned: still checked out, and the task that did it has finished",
    FaultKind.LEAKED: "connection leaked: never closed, found by the garbage collector",
    FaultKind.IN_BACKGROUND: "connection held by a background task at the end",
    FaultKind.HELD_ACROSS_AWAIT: "connection held across an await",
    FaultKind.FORBIDDEN_CALL: "connection held in a forbidden call",
    FaultKind.OVERDUE: "connection held for too long",
    FaultKind.NESTED: "connections nested: a task took one more while it had some of the same pool",
}
_REMEDIES: Final = {
    FaultKind.LEFT_OUT: "close it where it is opened: `async with AsyncSession(...)`, `async with engine.connect()`",
    FaultKind.ORPHANED: "close it in the task that opens it: `async with AsyncSession(...)`",
    FaultKind.LEAKED: "close it where it is opened: `async with AsyncSession(...)`, `async with engine.connect()`",
    FaultKind.IN_BACKGROUND: "await the task before the test ends, or cancel it and await its end; or close its session before it waits",
    FaultKind.HELD_ACROSS_AWAIT: "end the transaction before the await: `await session.commit()`, or `await release(session)`",
    FaultKind.FORBIDDEN_CALL: "end the transaction before the call: `await session.commit()`, or `await release(session)`",
    FaultKind.OVERDUE: "end the transaction sooner, or do the slow part before the checkout",
    FaultKind.NESTED: "pass the session on instead of opening a second one inside",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One connection with which something is wrong. All times are in seconds."""

    kind: FaultKind
    """What is wrong."""
    pool: str
    """Name of the pool."""
    site: Site | None
    """Where it was checked out."""
    stack: tuple[Site, ...]
    """The callers of `site`, innermost first."""
    task: str | None
    """Name of the task that checked it out."""
    held: float
    """How long it was out."""
    fixture: str | None = None
    """The fixture in whose setup it was checked out."""
    current: Site | None = None
    """The line at which its holder was."""
    awaiting: str | None = None
    """What was awaited there."""
    detail: str | None = None
    """More evidence."""
    absent: float = 0.0
    """How long its holder awaited something else, or had it beyond what is allowed, where that is what is wrong."""
    test: str | None = None
    """The test to be told, where that was over when it came to light."""

    @property
    def headline(self) -> str:
        """What is wrong, in one line."""
        return f"{_HEADLINES[self.kind]}: pool {self.pool!r}, checked out at {self.site or 'an unknown line'}"

    @property
    def wasted(self) -> float:
        """Connection-seconds that went to waste by it."""
        return self.held if self.kind in LEAKS else self.absent


def fault_of(kind: FaultKind, stay: Stay, current: Site | None = None, awaiting: str | None = None, detail: str = "") -> Fault:
    """Accuse somebody of what happened with a connection."""
    kept_by = stay.owner.fixture
    guilty = stay.taken_from if not stay.is_lent else None
    is_begun = stay.is_later and stay.taken_from is None
    if not detail and kept_by is not None:
        user = f"checked out in {stay.taken_from}, " if stay.is_lent else ""
        whose = f", which ended here{_NOT_TO_BLAME}" if guilty is None else ", and was still out when that ended"
        detail = f"{user}{'begun' if is_begun else 'kept'} by {stay.owner}{whose}"
    fixture = stay.fixture or (kept_by if stay.taken_from is None and not is_begun else None)
    return Fault(
        kind, stay.pool, stay.site, stay.stack, stay.task_name, stay.held, fixture, current, awaiting, detail or None, test=guilty
    )


def put_down_to(test: str, fault: Fault) -> Fault:
    """Let a test be told what a fixture has left that was set up for it, and has ended later, in no test's teardown."""
    if fault.test is not None:
        return fault
    detail = (fault.detail or "").replace(
        f", which ended here{_NOT_TO_BLAME}", f", which was set up for this test{_NOT_TO_BLAME}"
    )
    return replace(fault, test=test, detail=detail or None)


def describe(faults: Iterable[Fault]) -> str:
    """Write down what is wrong, the most frequent first; what is alike is told once."""
    alike = Counter((fault.kind, fault.pool, fault.site, fault.current) for fault in faults)
    first = {(fault.kind, fault.pool, fault.site, fault.current): fault for fault in reversed(list(faults))}
    parts = [_described(first[key], count) for key, count in alike.most_common(_MOST_SHOWN)]
    if len(alike) > _MOST_SHOWN:
        parts.append(f"and {len(alike) - _MOST_SHOWN} more")
    return "\n".join(parts)


def _described(fault: Fault, count: int) -> str:
    lines = [f"{fault.headline}{f', {count} times' if count > 1 else ''}"]
    lines += [f"    called from {site}" for site in fault.stack[:_CALLERS_SHOWN]]
    lines.append(
        f"    held for {fault.held:.3f} s"
        + (f" by task {fault.task!r}" if fault.task is not None else "")
        + (f", in the setup of fixture {fault.fixture!r}" if fault.fixture is not None else "")
    )
    if fault.current is not None or fault.awaiting is not None:
        lines.append(f"    which awaits {fault.awaiting or 'something'} at {fault.current or 'an unknown line'}")
    if fault.detail is not None:
        lines.append(f"    {fault.detail}")
    lines.append(f"    remedy: {_REMEDIES[fault.kind]}")
    return "\n".join(lines)
