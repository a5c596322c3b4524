"""What the shell tells of waits and holds to whoever draws them in a trace. By default nobody does: this is the null object."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Sequence

    from sqla_poolguard._course import Course, Giver
    from sqla_poolguard._facts import Checkout, Holder, Rejection, Site, Wait
    from sqla_poolguard._finding import FindingKind
    from sqla_poolguard._gaps import Gap

__all__ = ["Blockers", "Hold", "Tracing"]

if TYPE_CHECKING:
    Blockers = Callable[[int], list[tuple[Holder, Any]]]


class Hold(NamedTuple):
    """A lease that has ended, and of which something was found."""

    checkout: Checkout
    found: tuple[FindingKind, ...]
    spot: Any
    """Where in a trace its holder worked."""
    granted_at: float
    """On the pool's clock."""
    gaps: Sequence[Gap] = ()
    left_out: int = 0
    """Gaps that are not among these."""
    in_transaction: bool | None = None
    """Whether a transaction was open at any time when the connection was seen idle."""


class Tracing:
    """
    Draw nothing.

    What stands here for a place in a trace is opaque; None is one that is not recorded.
    """

    __slots__ = ()

    worth_seeing: float = math.inf
    """Seconds from which a wait that ended well is to be told."""

    def is_drawing(self) -> bool:
        """Tell whether anything would be drawn just now, so that nobody has to find out what for; asked on the way through the queue."""
        return False

    def here(self) -> Any:
        """Tell where in a trace the running code is."""
        return None

    def spot_of(self, task: Task[Any] | None) -> Any:  # noqa: ARG002
        """Tell where in a trace a task is. It takes no lock."""
        return None

    def last_spot(self, seen: Any, held: float) -> Any:  # noqa: ARG002
        """Tell where in a trace a lease is held, for so many seconds, that is given back here; `seen` is where its holder was seen."""
        return None

    def is_open(self, spot: Any) -> bool:  # noqa: ARG002
        """Tell whether what is recorded at a place goes on. It takes no lock."""
        return False

    def waited(self, wait: Wait, course: Course, now: float) -> None:
        """Draw a wait that ended well, in the context of who waited."""

    def refused(self, rejection: Rejection, course: Course | None, now: float, blockers: Blockers) -> None:
        """Draw a wait that ended badly, likewise; `blockers` gives the longest holders, so many, and where in a trace they are."""

    def blocked(self, giver: Giver, site: Site | None, spot: Any, waited: float) -> None:
        """Tell a holder, who gives its connection to somebody who has waited for it, where and in which trace that is."""

    def held(self, hold: Hold, now: float) -> None:
        """Draw a hold."""

    def keep(self, hold: Hold, now: float) -> None:
        """Draw a hold later, for the garbage collector's sake: take no lock."""

    def draw_kept(self) -> None:
        """Draw what was kept."""

    def forget(self) -> None:
        """Begin anew, in a forked child."""
