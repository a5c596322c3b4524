"""The values that travel: frozen facts about checkouts. They know nothing of pools, clocks or SQLAlchemy."""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import sys
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqla_poolguard._finding import Declaration, Finding, Waste

__all__ = [
    "Checkout",
    "Downtime",
    "Ending",
    "Holder",
    "HolderState",
    "Opened",
    "PoolSnapshot",
    "Reason",
    "Rejection",
    "Site",
    "Wait",
]


class Ending(enum.StrEnum):
    """How a lease ended."""

    CHECKED_IN = "checked_in"
    """Given back by its holder."""
    INVALIDATED = "invalidated"
    """Given back, but its connection was declared unfit (hard or soft)."""
    DETACHED = "detached"
    """Taken out of the pool by `detach()`; the connection lives on without us."""
    LEAKED = "leaked"
    """Never given back, but collected by the garbage collector."""
    RECLAIMED = "reclaimed"
    """Taken back, because the task that checked it out had finished (`reclaim="orphaned"`)."""


class Reason(enum.StrEnum):
    """Why a request got no connection."""

    TIMEOUT = "timeout"
    """The deadline passed while it waited, connected or pinged."""
    DEADLINE = "deadline"
    """The caller's own deadline passed, set by `deadline()`."""
    REJECTED = "rejected"
    """It could not have been served in time (`fail_fast=True`): refused at once, or turned away later for one that came after."""
    QUEUE_FULL = "queue_full"
    """`max_waiting` others were waiting already."""
    DEADLOCK = "deadlock"
    """It would have waited for ever: every holder waits for this very pool."""
    UNAVAILABLE = "unavailable"
    """No connection lives, and the database cannot be reached: the breaker on connecting is open, or a connect hangs."""
    CANCELLED = "cancelled"
    """Its task was cancelled."""
    CONNECT_FAILED = "connect_failed"
    """The database, the driver or a listener said no."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A line of code."""

    file: str
    """Absolute path, as the interpreter knows it."""
    line: int
    """Line number, from 1."""
    function: str
    """Qualified name of the function."""

    def __str__(self) -> str:
        return f"{shorten(self.file)}:{self.line} in {self.function}"


SECOND: Final = "a second connection of this pool"
"""What a holder awaits that queues for the pool from which it has a connection already."""


class HolderState(enum.StrEnum):
    """What a holder does with its connection, seen at one moment."""

    IN_DATABASE = "in_database"
    """The database works for it."""
    AWAITING = "awaiting"
    """The connection is idle while its holder awaits something else."""
    NESTED = "nested"
    """The connection is idle while its holder wants, or uses, another one of the same pool."""
    RUNNING = "running"
    """The connection is idle, and its holder runs or is about to."""
    ORPHANED = "orphaned"
    """The connection is idle, and the task that checked it out has finished."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One connection in one caller's hands, seen at one moment."""

    pool: str
    """Name of the pool."""
    site: Site | None
    """Where it was checked out; None if `capture="off"` or no caller could be seen."""
    task: str | None
    """Name of the asyncio task that checked it out; None outside a task or when that task is gone."""
    held: float
    """Seconds since it was granted."""
    waited: float
    """Seconds its holder had waited for it (queue, connect and ping together)."""
    overdue: bool = False
    """Whether it has been reported as held longer than `hold_warning`."""
    stack: tuple[Site, ...] = ()
    """Callers of `site`, innermost first; only with `capture="stack"`."""
    state: HolderState | None = None
    """What it does; None if the driver does not tell, or nobody has looked yet."""
    current: Site | None = None
    """The line at which it is."""
    awaiting: str | None = None
    """What it awaits there."""
    in_database: float | None = None
    """Of `held`, seconds spent in the database; sampled."""
    declared: str | None = None
    """The reason for which the hold was declared legitimate, if it was."""
    details: tuple[str, ...] = ()
    """What the tasks that it waits for do."""
    within: tuple[str, ...] = ()
    """Parts of frameworks in which it is, for which there are remedies."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """One lease that has ended."""

    pool: str
    """Name of the pool."""
    site: Site | None
    """Where it was checked out."""
    task: str | None
    """Name of the asyncio task that checked it out."""
    waited: float
    """Seconds until it was granted."""
    held: float
    """Seconds from grant to end."""
    ending: Ending
    """How it ended."""
    stack: tuple[Site, ...] = ()
    """Callers of `site`, innermost first; only with `capture="stack"`."""
    reported: tuple[str, ...] = ()
    """What was reported of it while it was out (`FindingKind` values)."""
    in_database: float | None = None
    """Of `held`, seconds spent in the database; sampled; None if nobody looked."""
    elsewhere: float | None = None
    """Of `held`, seconds spent awaiting something else; sampled."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A request that got its connection, but not at once."""

    pool: str
    """Name of the pool."""
    site: Site | None
    """Who waited."""
    task: str | None
    """Name of the asyncio task that waited."""
    waited: float
    """Seconds (queue, connect and ping together)."""
    queued: float
    """Seconds of it spent in the queue."""
    ahead: int
    """Waiters ahead of it when it came; 0 if it only had to open a connection."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A request that got no connection."""

    pool: str
    """Name of the pool."""
    site: Site | None
    """Who asked."""
    task: str | None
    """Name of the asyncio task that asked."""
    waited: float
    """Seconds until it was told so."""
    reason: Reason
    """Why."""
    error: BaseException
    """What the caller gets."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A physical connection that was opened."""

    pool: str
    """Name of the pool."""
    create_time: float
    """Seconds it took."""


@dataclass(frozen=True, slots=True)
class Downtime:
    """What is known of an outage of the database at one moment."""

    lasted: float
    """Seconds since it began; without an error yet, those that the oldest connect under way has taken."""
    fails: int
    """Connects that failed in it."""
    error_age: float | None
    """Seconds since the last of them did; None if none has yet."""
    next_try: float | None
    """Seconds until the next probe; None while one is under way, or a request's own connect."""


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """What a pool looks like at one moment. Counts are of now, totals of the engine's whole life."""

    pool: str
    """Name of the pool."""
    pool_size: int
    """Connections kept when idle; 0 means no limit, as in SQLAlchemy."""
    max_overflow: int
    """Connections allowed above `pool_size`; -1 means no limit."""
    idle: int
    """Open connections that nobody holds."""
    used: int
    """Connections checked out."""
    connecting: int
    """Slots in which a connection is being opened, checked or closed."""
    waiting: int
    """Requests that have no connection yet, whether they queue or connect."""
    holders: tuple[Holder, ...]
    """Who holds the connections, the longest first."""
    waiters: tuple[Holder, ...]
    """Who queues, the oldest first, at most the first 100; `held` is 0."""
    requested: int = 0
    """Total of the checkouts asked for."""
    granted: int = 0
    """Total of the checkouts that got a connection."""
    opened: int = 0
    """Total of the physical connections opened."""
    would_reject: int = 0
    """Total of the requests that `fail_fast=True` would have turned away, while it is "observe"."""
    rejected: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """Total of refused requests by reason (`Reason` values)."""
    ended: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """Total of ended leases by ending (`Ending` values)."""
    findings: tuple[Finding, ...] = ()
    """What was found wrong, the latest at each line with its count, the most frequent first."""
    waste: tuple[Waste, ...] = ()
    """Connection-seconds wasted by line of code, the worst first."""
    declared: tuple[Declaration, ...] = ()
    """Holds that the application declared legitimate, in this process."""
    downtime: Downtime | None = None
    """What is known of the outage, while the database cannot be reached."""

    @property
    def limit(self) -> int | None:
        """The most connections this pool may have; None when unlimited."""
        return None if self.pool_size == 0 or self.max_overflow < 0 else self.pool_size + self.max_overflow

    def __str__(self) -> str:
        size = "unlimited" if self.limit is None else f"{self.pool_size}+{self.max_overflow}"
        busy = f", {self.connecting} connecting" if self.connecting else ""
        return f"pool {self.pool!r} {size}, {self.used} out, {self.idle} idle{busy}, {self.waiting} waiting"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the read-only mappings as plain ones."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _restore, ({**values, "rejected": dict(self.rejected), "ended": dict(self.ended)},)


def _restore(values: dict[str, Any]) -> PoolSnapshot:
    return PoolSnapshot(
        **{**values, "rejected": MappingProxyType(values["rejected"]), "ended": MappingProxyType(values["ended"])}
    )


@functools.lru_cache(maxsize=1024)
def shorten(file: str) -> str:
    """Show a path as a person would name it: relative to where the process runs or to where Python imports from."""
    roots = [root.rstrip(os.sep) + os.sep for root in sys.path or () if isinstance(root, str) and root]
    with contextlib.suppress(OSError):  # the folder in which the process runs may be gone
        roots.append(os.getcwd().rstrip(os.sep) + os.sep)
    longest = max((root for root in roots if file.startswith(root)), key=len, default="")
    return file[len(longest) :]
