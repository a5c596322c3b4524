"""The line that says whether the pools of all processes fit the server. It computes and words it, and asks nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqla_poolguard._budget import Bound, most

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqla_poolguard._budget import ServerLimits

__all__ = ["ProcessCount", "StartLine", "start_line"]

_OF: Final = {Bound.SERVER: "", Bound.ROLE: " (the limit of the role)", Bound.DATABASE: " (the limit of the database)"}
_VARIABLE: Final = "WEB_CONCURRENCY"
_DIGITS: Final = 5


@dataclass(frozen=True, slots=True)
class ProcessCount:
    """How many processes have such an engine."""

    count: int | None
    """None if that is not known."""
    source: str
    """Who says so."""

    @classmethod
    def read(cls, given: int | None, environment: Mapping[str, str]) -> ProcessCount:
        """Take what was given, or what the environment says; a value there that is no number is none."""
        if given is not None:
            return cls(given, "Guard")
        text = environment.get(_VARIABLE, "").strip()
        known = text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) > 0
        return cls(int(text) if known else None, _VARIABLE)


@dataclass(frozen=True, slots=True)
class StartLine:
    """What is said of one engine."""

    text: str
    fits: bool | None
    """None if that cannot be told."""


def start_line(
    pool: str, size: int, max_overflow: int, processes: ProcessCount, limits: ServerLimits, *, pooled: bool
) -> StartLine:
    """
    Word the line.

    Args:
        pool: its name.
        size: its `pool_size`; 0 means no limit.
        max_overflow: its `max_overflow`; below 0 means no limit.
        processes: how many there are.
        limits: those of the server, for the engine's role.
        pooled: whether a pooler stands in between.
    """
    each, room = most(size, max_overflow), limits.room
    slots = f"{room.slots} usable slots{_OF[room.bound]}"
    times = f"x {processes.count or '?'} process{'es' if processes.count != 1 else ''}"
    known = processes.count is not None
    origin = processes.source if known else f"not known: set Guard(processes=...) or {_VARIABLE}"
    if each is None:
        text = f"pool {pool!r}: no limit {times} ({origin})"
        if pooled:
            return StartLine(f"{text}, through a pooler, whose limits are its own", None)
        return StartLine(f"{text}: a single process can take all {slots}", fits=False)
    total = each * (processes.count or 1)
    text = f"pool {pool!r}: {size}+{max_overflow} {times} ({origin}) = {'' if known else 'at least '}{total}"
    if pooled:
        return StartLine(f"{text} connections to a pooler, whose limits are its own", None)
    fits = total <= room.slots
    if fits:
        return StartLine(f"{text} of {slots}", True if known else None)
    remedy = (
        f"at most {room.slots // (processes.count or 1)} for each process fit" if room.slots >= (processes.count or 1) else ""
    )
    remedy = remedy or "there are more processes than slots: a pooler is needed"
    return StartLine(f"{text}, but there are only {slots}: the last ones will be refused; {remedy}", fits=False)
