"""What the time of one lease went for: the database, awaiting something else, line by line, and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqla_poolguard._facts import Site

__all__ = ["FLOOR", "Absence", "Account"]

FLOOR: Final = 0.001
"""Seconds below which an await is not listed: a task that is being scheduled takes as long."""

_Line = tuple["Site | None", "str | None"]


@dataclass(frozen=True, slots=True)
class Absence:
    """What one line has awaited that was not the database."""

    site: Site | None
    """The line."""
    awaiting: str | None
    """What it awaited."""
    seconds: float
    """How long, all in all."""
    is_declared: bool
    """Whether `allow_hold` says that this is right."""


class Account:
    """The books of one lease. All times are in seconds."""

    __slots__ = ("_is_closed", "_lines", "_open", "in_database", "operations")

    def __init__(self) -> None:
        self.in_database = 0.0
        """Spent in the database."""
        self.operations = 0
        """Times that its holder waited for the database."""
        self._lines: dict[_Line, list[float]] = {}
        """Line to [seconds, of these declared]."""
        self._open: tuple[float, _Line | None, bool] | None = None
        self._is_closed = False

    @property
    def elsewhere(self) -> float:
        """Spent awaiting something else."""
        return sum(seconds for seconds, _ in self._lines.values())

    @property
    def absences(self) -> tuple[Absence, ...]:
        """The lines that awaited something else for a millisecond or more, the longest first."""
        found = [Absence(*line, seconds, declared > 0) for line, (seconds, declared) in self._lines.items() if seconds >= FLOOR]
        return tuple(sorted(found, key=lambda absence: -absence.seconds))

    def begin(self, now: float, line: _Line | None, *, is_declared: bool = False) -> None:
        """
        Note that the holder waits from now on.

        Args:
            now: on the pool's clock.
            line: where, and for what; None: for the database.
            is_declared: whether the hold was declared to be right.
        """
        if not self._is_closed:
            self._open = (now, line, is_declared)

    def end(self, now: float, *, was_used: bool = False) -> None:
        """
        Note that it waits no more.

        Args:
            now: on the pool's clock.
            was_used: whether somebody else has used the connection meanwhile, a task that it waits for: then it was not idle.
        """
        if self._open is None:
            return
        (since, line, is_declared), self._open = self._open, None
        seconds = max(now - since, 0.0)
        if line is None or was_used:
            self.in_database += seconds
            self.operations += 1
        else:
            figures = self._lines.setdefault(line, [0.0, 0.0])
            figures[0] += seconds
            figures[1] += seconds if is_declared else 0.0

    def close(self, now: float) -> None:
        """Count no more from now on, on the pool's clock."""
        self.end(now)
        self._is_closed = True

    def describe(self, held: float) -> str:
        """
        Write down what the time went for, in milliseconds.

        Args:
            held: how long the connection was out.
        """
        rest = max(held - self.in_database - self.elsewhere, 0.0)
        return (
            f"held {held * 1000:.0f} ms = {self.in_database * 1000:.0f} in database ({self.operations} waits)"
            f" + {self.elsewhere * 1000:.0f} awaiting elsewhere + {rest * 1000:.0f} CPU"
        )
