"""A pool's size, changed while it is in use: at once where it grows, by attrition where it shrinks."""

from __future__ import annotations

from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING

from sqla_poolguard._figures import Figures, check_arguments

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from sqla_poolguard._handover import Handover
    from sqla_poolguard._watch import Watch

__all__ = ["Resizable"]


class Resizable(Figures):
    """A queue pool that can be given another size."""

    _handover: Handover
    _watch: Watch

    def resize(self, pool_size: int, max_overflow: int) -> None:
        """
        Give the pool another size, from any thread, with or without an event loop; it returns at once.

        Where it grows, those who wait get the new slots. Where it shrinks, nobody loses a connection: idle ones that are too many
        are closed now (in the event loop they belong to), others when they come back, and until then nobody connects.
        `dispose()` keeps the new size.

        Args:
            pool_size: connections to keep when idle; 0 means no limit at all, as in SQLAlchemy.
            max_overflow: connections allowed above that; below 0 means no limit.

        Raises:
            ValueError: one of them is not allowed; nothing is changed then.
        """
        check_arguments(pool_size, max_overflow)
        slots = self._slots
        slots.resize(pool_size, max_overflow)
        self._watch.gate.resized()
        self._handover.hand_out()
        homes = [record.loop for record in slots.idle.copy()] if len(slots.idle) > slots.keep else []
        if homes:
            self.logger.info("Pool resized; idle connections above the new size are closed. %s", self.status())
            self._watch.run_in(_best(homes), self._handover.settle)


def _best(homes: list[AbstractEventLoop | None]) -> AbstractEventLoop | None:
    """Choose the event loop in which to close connections of these loops: the running one, or another that runs; None if none does."""
    here = _get_running_loop()
    if here in homes:
        return here
    return next((home for home in homes if home is not None and home.is_running()), here)
