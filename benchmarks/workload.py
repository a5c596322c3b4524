"""What a workload is: how a rival is made ready for it, and what it does in one block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import rivals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from benchmarks.rivals import Rival

__all__ = ["FLOORS", "LOAD", "UNCONTENDED", "WITH_ENGINE", "Setting", "Workload"]

UNCONTENDED = (rivals.STOCK, rivals.LISTENERS, rivals.OURS, rivals.OURS_SDK)
WITH_ENGINE = (rivals.STOCK, rivals.LISTENERS, rivals.OTEL, rivals.OURS, rivals.OURS_SDK)
FLOORS = (rivals.STOCK, rivals.FLOOR, rivals.BARE)
"""Apart from the others: they share code with stock as other classes, for which CPython would no longer specialise it."""
LOAD = (rivals.STOCK, rivals.LISTENERS, rivals.OURS)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a run takes place."""

    url: str
    """A real PostgreSQL's, for asyncpg."""
    size: int = 0
    """How many waiters or connections, in a workload that is run at several."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to do with connections, the same for every rival."""

    name: str
    sentence: str
    rivals: tuple[str, ...]
    operations: int
    """Checkouts in one block."""
    rounds: int
    ready: Callable[[Rival, Setting], Awaitable[Any]]
    """Make what `run` works on."""
    run: Callable[[Any, int], Awaitable[Sequence[float] | None]]
    """Do the operations; return what each waited, if the workload is about waiting."""
    done: Callable[[Any], Awaitable[None]]
    """Close what `ready` has made."""
    fresh: bool = False
    """Whether each block begins with a new pool."""
    counted: bool = False
    """Whether bytecodes are counted: only where nothing but code decides how many there are."""
    postgres: bool = False
    sizes: tuple[int, ...] = ()
    """At how many waiters or connections it is run."""
    more: tuple[tuple[str, Callable[[Setting], Awaitable[tuple[Any, Any, Any]]] | None], ...] = ()
    """Rivals without SQLAlchemy: name, and what makes (subject, run, done)."""
