"""The figures that SQLAlchemy and its users ask a queue pool for, read from the slots. Nothing here changes a pool."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sqlalchemy.pool import AsyncAdaptedQueuePool

if TYPE_CHECKING:
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._slots import Slots

__all__ = ["Figures", "check_arguments"]


class Figures(AsyncAdaptedQueuePool):
    """A queue pool whose figures are its slots'."""

    _slots: Slots[GuardedRecord]

    def size(self) -> int:
        """Connections kept when idle."""
        return self._slots.size

    def checkedin(self) -> int:
        """Idle connections."""
        return len(self._slots.idle)

    def checkedout(self) -> int:
        """Connections that are out, or being opened or closed."""
        return self._slots.taken - len(self._slots.idle)

    def overflow(self) -> int:
        """Connections above `pool_size`; below 0 while fewer are open, 0 if there is no limit: as in SQLAlchemy."""
        return self._slots.taken - self._slots.size if self._slots.size else 0

    def timeout(self) -> float:
        """Seconds to wait for a connection."""
        return self._timeout

    def status(self) -> str:
        """Describe the pool in one line, in SQLAlchemy's words."""
        return (
            f"Pool size: {self.size()}  Connections in pool: {self.checkedin()} "
            f"Current Overflow: {self.overflow()} Current Checked out connections: {self.checkedout()}"
        )


def check_arguments(
    pool_size: object, max_overflow: object, timeout: object = None, recycle: object = -1, **switches: object
) -> None:
    """
    Check the arguments that a guarded pool has from its stock sibling.

    Raises:
        ValueError: one of them is not allowed; the message names it, its value and what is allowed.
    """
    for name, value, least, allowed in (
        ("pool_size", pool_size, 0, "a whole number, 0 or more"),
        ("max_overflow", max_overflow, -math.inf, "a whole number; below 0 for no limit"),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            msg = f"{name}={value!r} is not allowed; allowed: {allowed}"
            raise ValueError(msg)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or math.isnan(timeout)):
        msg = f"pool_timeout={timeout!r} is not allowed; allowed: None or a number of seconds"
        raise ValueError(msg)
    if isinstance(recycle, bool) or not isinstance(recycle, (int, float)) or math.isnan(recycle):
        msg = f"pool_recycle={recycle!r} is not allowed; allowed: a number of seconds; below 0 for never"
        raise ValueError(msg)
    for name, value in switches.items():
        if value not in (True, False):
            msg = f"pool_{name}={value!r} is not allowed; allowed: True or False"
            raise ValueError(msg)
