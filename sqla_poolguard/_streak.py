"""What the samples of one lease add up to. It holds tasks weakly, and neither frames nor connections."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._gaps import Gaps

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from sqla_poolguard._census import Inquiry
    from sqla_poolguard._facts import Site
    from sqla_poolguard._finding import FindingKind
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._sight import Sight

__all__ = ["Streak", "streak_of"]

_MOST_LINES: Final = 16


class Streak:
    """The samples of one lease."""

    __slots__ = (
        "_adopted",
        "_lag",
        "_lines",
        "_seen_at",
        "_user",
        "checked",
        "declared",
        "elsewhere",
        "gap_elsewhere",
        "gap_samples",
        "gap_since",
        "gap_yielded",
        "gaps",
        "gone",
        "granted_at",
        "idle_in_transaction",
        "in_database",
        "in_transaction",
        "inquiry",
        "keeper",
        "latent",
        "lived",
        "nested",
        "operations",
        "reclaim_at",
        "sight",
        "spot",
        "task",
        "told",
        "told_in_gap",
        "used_late",
    )

    def __init__(self, granted_at: float, task: weakref.ref[Task[Any]] | None) -> None:
        self.granted_at = granted_at
        """When the lease was granted: a lease with another figure is another one."""
        self.task = task
        """The task that checked out."""
        self.operations: int | None = None
        """The driver's count at the last sample."""
        self.lived = 0.0
        """Seconds it was watched, without those in which the loop stood still."""
        self.in_database = 0.0
        self.elsewhere = 0.0
        self.latent = 0.0
        """Seconds of earlier gaps spent so, without those that are declared to be right."""
        self.gap_since = 0.0
        """When the connection was seen to be used last, in seconds of `lived`."""
        self.gap_elsewhere = 0.0
        """Seconds of this gap spent awaiting something else."""
        self.gap_yielded = 0.0
        """Seconds of these in which it only let others run."""
        self.gap_samples = 0
        """Samples of this gap that saw it so."""
        self.gaps = Gaps()
        self.spot: Any = None
        """Where in a trace its holder was when it was seen first; see `Tracing`."""
        self.in_transaction: bool | None = None
        self.idle_in_transaction: bool | None = None
        """Whether it was ever seen idle with a transaction open; None: never seen idle, or the driver does not tell."""
        self.nested = 0
        """Samples one after the other that saw it nested."""
        self.sight: Sight | None = None
        self.inquiry: Inquiry | None = None
        """Which task has the connection, where that was asked."""
        self.reclaim_at = 0.0
        """When to see next whether it may be taken back, in seconds of `lived`."""
        self.checked = False
        """Whether it was looked, in this gap, if its task can reach the connection at all."""
        self.gone = False
        """Whether its task was seen to have finished, by an earlier sample."""
        self.used_late = False
        """Whether it was used after its task had finished."""
        self.declared: str | None = None
        self.keeper: Callable[[], Connection | None] | None = None
        """A reference to SQLAlchemy's connection over it, once it was looked for."""
        self.told: set[FindingKind] = set()
        self.told_in_gap: set[FindingKind] = set()
        self._lines: dict[tuple[Site | None, str | None], float] = {}
        self._user: weakref.ref[Task[Any]] | None = None
        self._adopted: weakref.ref[Task[Any]] | None = None
        self._seen_at: float | None = None
        self._lag = 0.0

    @property
    def idle(self) -> float:
        """Seconds for which the connection is known to be idle."""
        return self.lived - self.gap_since

    def tick(self, now: float, lag: float) -> float:
        """
        Let time pass.

        Args:
            now: seconds on the pool's clock.
            lag: seconds for which the loop has stood still altogether.

        Returns:
            Seconds since the last sample for which the loop ran.
        """
        first = self._seen_at is None
        passed = 0.0 if first else max(now - (self._seen_at or 0.0) - max(lag - self._lag, 0.0), 0.0)
        self._seen_at, self._lag = now, lag
        self.lived += passed
        return passed

    def begin_gap(self, operations: int, *, used: bool) -> None:
        """Note that the connection is, or was just, in use."""
        self.gaps.end()
        if used and self.operations is not None:
            self.used_late = self.used_late or self.gone
            self._adopted = self.inquiry = self.sight = None
            self.reclaim_at = 0.0
        if self.declared is None:
            self.latent += self.gap_elsewhere - self.gap_yielded
        else:
            self._lines.clear()
        self.operations = operations
        self.gap_since = self.lived
        self.gap_elsewhere = self.gap_yielded = 0.0
        self.gap_samples = 0
        self.checked = False
        self.declared = None
        self.told_in_gap.clear()

    def add_elsewhere(self, site: Site | None, awaiting: str | None, seconds: float, *, yields: bool = False) -> None:
        """Count time spent awaiting something else, and where; where it only `yields` to others, that is none of many short awaits."""
        self.elsewhere += seconds
        self.gap_elsewhere += seconds
        self.gap_yielded += seconds if yields else 0.0
        self.gap_samples += 1
        if (site, awaiting) in self._lines or len(self._lines) < _MOST_LINES:
            self._lines[site, awaiting] = self._lines.get((site, awaiting), 0.0) + seconds

    def worst(self) -> tuple[Site | None, str | None]:
        """Give the line that took most of that time, and what it awaited."""
        return max(self._lines, key=lambda line: self._lines[line], default=(None, None))

    def use(self, task: Task[Any]) -> None:
        """Note which task was seen using the connection."""
        self._user = weakref.ref(task)

    def adopt(self, task: weakref.ref[Task[Any]]) -> None:
        """Note which task has the connection, since the one that checked it out has not, or not any more."""
        self._adopted = task

    def adopted(self) -> Task[Any] | None:
        """Give the task that was found to have the connection instead of the one that checked it out."""
        task = self._adopted() if self._adopted is not None else None
        return task if task is not None and not task.done() else None

    def holder(self, user: Task[Any] | None) -> Task[Any] | None:
        """Give the task that has the connection: the one that uses it, or checked it out, or was seen using it; None if all have finished."""
        if user is not None:
            return user
        for reference in (self._adopted, self.task, self._user):
            task = reference() if reference is not None else None
            if task is not None and not task.done():
                return task
        return None


def streak_of(record: GuardedRecord) -> Streak:
    """Give what samples have shown of a lease; for one that was not looked at yet, begin."""
    lease = record.lease
    streak = lease.streak
    if streak is None or streak.granted_at != lease.granted_at:
        streak = lease.streak = Streak(lease.granted_at or 0.0, lease.task)
    return streak
