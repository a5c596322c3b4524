"""What a pool's size depends on, and the words for what comes out: load, target, service, verdict."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from sqla_poolguard._budget import Bound

if TYPE_CHECKING:
    from sqla_poolguard._budget import Processes
    from sqla_poolguard._hold_times import HoldTimes

__all__ = ["Knee", "Load", "Service", "Target", "Verdict", "deadlock_floor", "knee"]

_MOST_HELD: Final = 100_000
"""Connections at a time beyond which figures are a slip of the finger."""


class Verdict(enum.StrEnum):
    """Whether the pools that the load needs have room on the server, and what to change where they have not."""

    FITS = "fits"
    """They have."""
    HOLD_TOO_LONG = "hold time too long"
    """Connections are held for too long for this rate: shorter holds make it fit, or nothing else would."""
    NESTED = "nested checkouts"
    """What they need for their load has room; what they need because tasks hold several connections at once has not."""
    NO_ROOM = "no room"
    """There is not one connection for this service."""
    TOO_MANY_PROCESSES = "too many processes"
    """Fewer pools, each a little larger, have room."""
    NEEDS_POOLER = "needs a pooler"
    """The load has room when all processes share connections, and not when each has its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    What is asked of the database by the whole service at its busiest.

    Raises:
        ValueError: a value that cannot be.
    """

    rate: float
    """Checkouts per second."""
    holds: HoldTimes
    """How long each connection is held."""
    outside: float = 0.0
    """Of a mean hold, the seconds spent awaiting something else than the database."""
    burst: int = 1
    """How many checkouts come at once (fan-out, `asyncio.gather`)."""
    nesting: int = 1
    """Connections that one task holds at the same time, at most."""
    tasks: int = 1
    """Tasks of one process that nest at the same time."""

    def __post_init__(self) -> None:
        _above_zero(rate=self.rate, hold=self.holds.mean)
        _whole(burst=self.burst, nesting=self.nesting, tasks=self.tasks)
        if self.rate * self.holds.mean > _MOST_HELD:
            msg = f"rate={self.rate:g} is not allowed; allowed: with holds of {self.holds.mean:g} s up to {_MOST_HELD / self.holds.mean:g}, "
            msg += f"which is {_MOST_HELD:,} connections at a time"
            raise ValueError(msg)
        if not 0 <= self.outside < self.holds.mean:
            msg = f"outside={self.outside:g} is not allowed; allowed: from 0 to less than the mean hold ({self.holds.mean:g} s)"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    What is demanded: at most this share of the checkouts waits for longer than this.

    Raises:
        ValueError: a value that cannot be.
    """

    wait: float = 0.05
    """Seconds."""
    share: float = 0.01
    deadline: float = 4.0
    """Seconds that a request has in all."""

    def __post_init__(self) -> None:
        _above_zero(deadline=self.deadline)
        if not 0 < self.share < 1:
            msg = f"share={self.share:g} is not allowed; allowed: between 0 and 1"
            raise ValueError(msg)
        if not 0 <= self.wait < self.deadline:
            msg = f"wait={self.wait:g} is not allowed; allowed: from 0 to less than the deadline ({self.deadline:g} s)"
            raise ValueError(msg)

    @property
    def pool_timeout(self) -> float:
        """
        Give the seconds to set: a quarter of the deadline, and no less than twice the wait that is tolerated.

        Whoever has waited for that long has too little time left for the work. Source: our own measurements of overload, where a bound
        on the wait of about that part kept goodput whole (`docs/how-to/overload.md`).
        """
        quarter = self.deadline / 4
        seconds = min(max(quarter, 2 * self.wait), self.deadline)
        digits = 2 - math.floor(math.log10(seconds)) if seconds < 1 else 1
        return round(seconds, digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What there is."""

    processes: Processes
    usable: int
    """Connections that the service may have in all."""
    cores: int | None = None
    """Of the database server."""
    bound: Bound = Bound.SERVER
    """Which limit it is that leaves no more."""
    allowed: int | None = None
    """What that limit allows if nobody else has any; None if it is not known."""
    without: int | None = None
    """What the next limit would leave if that one were none; None if it is not known."""


class Knee(NamedTuple):
    """
    How many connections a server can work for at one time; more of them only take turns.

    Source: PostgreSQL wiki, "Number Of Database Connections". It was measured with disks that turn; nobody has tested it on SSDs.
    """

    classic: int
    """2 x cores + spindles; none are counted, as for data that are cached."""
    recent: int
    """4 x cores: what one of its authors, K. Grittner, says of newer versions."""


def knee(cores: int) -> Knee:
    """Give what so many cores can work for."""
    return Knee(2 * cores, 4 * cores)


def deadlock_floor(tasks: int, nesting: int) -> int:
    """
    Give the connections with which so many tasks cannot all wait for each other: tasks x (nesting - 1) + 1.

    Source: HikariCP, "About Pool Sizing", section "Pool-locking".
    """
    return tasks * (nesting - 1) + 1


def _above_zero(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            msg = f"{name}={value:g} is not allowed; allowed: a number above 0"
            raise ValueError(msg)


def _whole(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            msg = f"{name}={value!r} is not allowed; allowed: a whole number from 1"
            raise ValueError(msg)
