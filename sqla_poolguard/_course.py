"""How a request came to its connection, and whose it was before. Kept only while somebody waits; it reads no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import weakref
    from asyncio import Task

    from sqla_poolguard._callsite import Place

__all__ = ["CONNECT", "PING", "QUEUE", "Course", "Giver", "Phase"]

QUEUE: Final = "queue"
CONNECT: Final = "connect"
PING: Final = "ping"

_MOST_PHASES: Final = 32


class Phase(NamedTuple):
    """A part of a wait."""

    name: str
    since: float
    """When it began, on the pool's clock."""
    seconds: float


class Giver:
    """Whoever gave a connection, or its slot, while somebody waited. It holds the task weakly."""

    __slots__ = ("at", "held", "is_lost", "place", "spot", "task")

    def __init__(
        self, place: Place | None, task: weakref.ref[Task[Any]] | None, held: float, at: float, spot: Any, *, is_lost: bool
    ) -> None:
        """
        Note who it was, before the books forget.

        Args:
            place: where it was checked out.
            task: that checked it out.
            held: for how many seconds.
            at: when it was given, on the pool's clock.
            spot: where in a trace that was, if it is recorded; see `Tracing`.
            is_lost: whether the garbage collector gives, in which nothing else can be told.
        """
        self.place, self.task, self.held, self.at, self.spot, self.is_lost = place, task, held, at, spot, is_lost


class Course:
    """What happened to one request that could not be served at once, phase by phase; each ends where the next begins."""

    __slots__ = ("_begun", "ahead", "giver", "spot")

    def __init__(self) -> None:
        self._begun: list[tuple[str, float]] = []
        self.ahead = 0
        """Waiters ahead of it when it came."""
        self.giver: Giver | None = None
        """Whose connection, or slot, ended its wait in the queue."""
        self.spot: Any = None
        """Where in a trace it waited in the queue, if that is recorded; see `Tracing`."""

    def begin(self, phase: str, now: float) -> None:
        """Note that a phase begins; one that goes on is not begun anew."""
        begun = self._begun
        if len(begun) < _MOST_PHASES and not (begun and begun[-1][0] == phase):
            begun.append((phase, now))

    def phases(self, end: float) -> list[Phase]:
        """Give the phases of a wait that is over now."""
        ends = [since for _, since in self._begun[1:]] + [end]
        return [Phase(name, since, max(until - since, 0.0)) for (name, since), until in zip(self._begun, ends, strict=False)]

    def queued(self, end: float) -> float:
        """Give the seconds in the queue."""
        return sum((phase.seconds for phase in self.phases(end) if phase.name == QUEUE), 0.0)

    @property
    def in_queue(self) -> bool:
        """Whether it was in the queue last: then it is the holders for whom it waits."""
        return bool(self._begun) and self._begun[-1][0] == QUEUE
