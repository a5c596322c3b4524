"""What is found out about connections that are not where they should be: frozen facts that name a line, never guesses."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqla_poolguard._facts import Site

__all__ = ["Cause", "Declaration", "Finding", "FindingKind", "LeakKind", "SlowStatement", "Verdict", "Waste"]


class FindingKind(enum.StrEnum):
    """What is wrong with a lease."""

    HELD_ACROSS_AWAIT = "held_across_await"
    """Its connection is idle while its holder awaits something that is not the database."""
    OVERDUE = "overdue"
    """It is held longer than `hold_warning`, for whatever reason."""
    ORPHANED = "orphaned"
    """The task that checked it out has finished, and nobody uses it."""
    LEAKED = "leaked"
    """It was never given back: the garbage collector found it."""
    NESTED = "nested"
    """Its task, or a task it waits for, has asked the same pool for a second connection."""
    DEADLOCK = "deadlock"
    """Every holder waits, in the end, for this very pool."""
    LOOP_BLOCKED = "loop_blocked"
    """Its holder keeps the event loop from running, with the connection idle."""


class LeakKind(enum.StrEnum):
    """How it was noticed that a connection was not given back; each lease counts once, the first time."""

    GARBAGE_COLLECTED = "garbage_collected"
    """Only when the garbage collector found it."""
    ORPHANED = "orphaned"
    """Its task had finished; it was left where it was."""
    RECLAIMED = "reclaimed"
    """Its task had finished; it was taken back at once (`reclaim="orphaned"`)."""


class Cause(enum.StrEnum):
    """Why a pool is exhausted."""

    DEADLOCK = "deadlock"
    """Every holder waits for this very pool."""
    HELD_ACROSS_AWAIT = "held_across_await"
    """Most connections are idle while their holders await something else."""
    ORPHANED = "orphaned"
    """Most connections belong to tasks that have finished."""
    LOOP_BLOCKED = "loop_blocked"
    """The event loop was kept from running."""
    DATABASE_UNAVAILABLE = "database_unavailable"
    """Most slots are taken by connects that do not come to an end."""
    SLOW_DATABASE = "slow_database"
    """Most connections wait for the database's answer, and have done so for long."""
    UNDERSIZED = "undersized"
    """Connections come and go, but there are fewer than the load needs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with one lease, seen at one moment. All times are in seconds."""

    pool: str
    """Name of the pool."""
    kind: FindingKind
    """What is wrong."""
    site: Site | None
    """Where the connection was checked out."""
    current: Site | None
    """The line at which its holder is now; for `nested`, where the second connection was asked for."""
    awaiting: str | None
    """What is awaited there; for `loop_blocked`, None."""
    held: float
    """Since it was checked out."""
    idle: float
    """Since the connection was last used, as far as that is proved."""
    in_database: float
    """Of `held`, spent in the database; sampled."""
    elsewhere: float
    """Of `held`, spent awaiting something else; sampled."""
    task: str | None = None
    """Name of the task that holds it."""
    trace_id: str | None = None
    """The trace in which its holder runs, 32 hexadecimal digits; None without OpenTelemetry."""
    in_transaction: bool | None = None
    """Whether a transaction is open; None if the driver does not tell."""
    details: tuple[str, ...] = ()
    """Evidence, line by line: what child tasks wait for, the proof of a deadlock."""
    count: int = 1
    """How often it was found at these lines, this time included."""

    @property
    def cpu(self) -> float:
        """Of `held`, the rest: neither in the database nor awaiting."""
        return max(self.held - self.in_database - self.elsewhere, 0.0)


@dataclass(frozen=True, slots=True)
class Waste:
    """Time that connections were idle in somebody's hands, at one line of code; sampled."""

    site: Site | None
    """The line that awaited."""
    awaiting: str | None
    """What it awaited."""
    seconds: float
    """Connection-seconds."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A hold that the application has declared to be legitimate."""

    reason: str
    """As given to `allow_hold` or to the option `poolguard_hold`."""
    entered: int
    """How often it was declared."""
    matched: int
    """How many holds it has excused."""

    @property
    def stale(self) -> bool:
        """Whether it never excused anything."""
        return self.matched == 0


@dataclass(frozen=True, slots=True)
class SlowStatement:
    """A statement that took `slow_statement` seconds or more."""

    pool: str
    """Name of the pool."""
    site: Site | None
    """The line that executed it."""
    task: str | None
    """Name of the task."""
    seconds: float
    """How long it took, until the database had answered or refused."""
    text: str | None
    """The first thousand characters of the statement, without its parameters; None unless `statement_text` is on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a pool was exhausted, and what to do."""

    cause: Cause
    """The cause that the evidence shows."""
    evidence: str
    """The figures it rests on."""
    remedies: tuple[str, ...] = ()
    """What helps, the surest first."""

    def __str__(self) -> str:
        return f"{self.cause} ({self.evidence})"
