"""Hands connections and free slots from those who give them back to those who wait. Who gets what is decided in the slots."""

from __future__ import annotations

from asyncio import InvalidStateError
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.util import concurrency

from sqla_poolguard._connects import Connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._course import Giver
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._slots import Slots
    from sqla_poolguard._waiters import Waiter

__all__ = ["Evicted", "Expired", "Handover", "Stuck", "TurnedAway", "Unreachable"]

_await: Final[Callable[[Any], Any]] = getattr(concurrency, "await_", concurrency.await_only)


class TurnedAway(Exception):  # noqa: N818 - a signal between rooms of the shell, never seen by a caller
    """A waiter gets nothing; it is handed this instead of a connection."""


class Expired(TurnedAway):
    """Its deadline has passed."""


class Evicted(TurnedAway):
    """It made room for one that came later."""


class Unreachable(TurnedAway):
    """The database cannot be reached."""


class Stuck(TurnedAway):
    """It would wait for ever; the arguments are the proof, line by line."""


class Handover:
    """
    The hands of one pool.

    What is handed to a waiter is a record, or a free slot, reserved for it, in which it is to connect itself.
    Nothing is ever lost between two hands: whatever a waiter can no longer take is handed on.
    """

    __slots__ = ("_slots", "linger", "tell_giver")

    def __init__(self, slots: Slots[GuardedRecord]) -> None:
        self._slots = slots
        self.linger: Callable[[], bool] = bool
        """Asked before connections above `pool_size` are closed: True puts it off. By default, never."""
        self.tell_giver: Callable[[Giver, Waiter], object] = _say_nothing
        """Called when somebody has given to a waiter. By default, nobody is told."""

    def wait(self, waiter: Waiter) -> GuardedRecord | Connect:
        """
        Wait in the queue, inside one of SQLAlchemy's greenlets.

        Raises:
            TurnedAway: nothing will come, or not in time.
        """
        slots, future = self._slots, waiter.future
        slots.enqueue(waiter)
        try:
            # a connection may have come back since we looked, from another thread or the garbage collector
            if slots.idle or slots.taken < slots.limit:
                self.hand_out()
            given = _await(future)
        except BaseException:
            if future.done() and not future.cancelled():
                self._take_back(future.result(), waiter.giver)
            else:
                future.cancel()
                slots.gave_up(waiter)
                self.hand_out()
            raise
        if isinstance(given, TurnedAway):
            raise type(given)(*given.args)  # another one: that which is handed over would keep this frame, and this frame it
        return given  # type: ignore[no-any-return]

    def expire(self, now: float) -> None:
        """Turn away every waiter whose deadline has passed."""
        for waiter in self._slots.expired(now):
            self._deliver(waiter, Expired())

    def turn_away(self, since: float) -> None:
        """Turn away every waiter that has waited since then, or for longer: the database cannot be reached."""
        for waiter in self._slots.older(since):
            self._deliver(waiter, Unreachable())

    def evict(self, waiter: Waiter) -> None:
        """Turn a waiter away that was taken out of the queue."""
        self._deliver(waiter, Evicted())

    def refuse(self, waiter: Waiter, proof: tuple[str, ...]) -> None:
        """Turn a waiter away that would wait for ever."""
        if self._slots.withdraw(waiter):
            self._deliver(waiter, Stuck(*proof))

    def give_back(self, record: GuardedRecord, giver: Giver | None = None) -> None:
        """Take a record from whoever had it; one without a connection is only a free slot."""
        slots = self._slots
        if record.dbapi_connection is None:
            self.free(record, giver)
            return
        if slots.waiters.queued:
            waiter = slots.successor()
            if waiter is not None and self._give(waiter, record, giver):
                return
        # first in, then a look at who waits: who comes to wait does it the other way round, so that one sees the other
        slots.idle.append(record)
        if slots.waiters.queued or len(slots.idle) > slots.keep:
            self.settle(giver)

    def free(self, record: GuardedRecord | None, giver: Giver | None = None) -> None:
        """Free a slot, and offer it to whoever waits. It awaits nothing: the garbage collector comes here."""
        self._slots.vacate(record)
        self.hand_out(giver)

    def settle(self, giver: Giver | None = None) -> None:
        """Give everything that is free to those who wait, then close what is one too many."""
        self.hand_out(giver)
        slots = self._slots
        while len(slots.idle) > slots.keep and (slots.is_shrinking or not self.linger()):
            record = slots.surplus()
            if record is None:
                return
            self.discard(record)

    def close_idle(self, keep: float) -> None:
        """Close idle connections, those first that have been idle longest, until no more than so many are left."""
        idle = self._slots.idle
        while len(idle) > keep:
            try:
                record = idle.popleft()
            except IndexError:  # another thread took it
                return
            self.discard(record)

    def discard(self, record: GuardedRecord) -> None:
        """Close a connection; its slot is free afterwards, come what may."""
        try:
            if record.is_foreign() or record.is_out_of_reach():
                record.abandon()
            else:
                record.close()
        finally:
            self._slots.vacate(record)
            self.hand_out()

    def drop(self, connect: Connect, giver: Giver | None = None) -> None:
        """Free a slot in which nobody has tried to connect, and offer it to whoever waits."""
        self._slots.give_back(connect)
        self.hand_out(giver)

    def hand_out(self, giver: Giver | None = None) -> None:
        """Give what is free to whoever waits; `giver` is to be known for it."""
        slots = self._slots
        while slots.waiters.queued and (slots.idle or slots.taken < slots.limit):  # a glance that saves most matches
            pair = slots.match()
            if pair is None:
                return
            waiter, given = pair
            if self._give(waiter, given, giver):
                continue
            if isinstance(given, Connect):
                slots.give_back(given)
            else:
                slots.put_back(given)

    def _give(self, waiter: Waiter, given: GuardedRecord | Connect, giver: Giver | None) -> bool:
        """Give a waiter what it waited for, and let both know of each other; False if nobody waits there any more."""
        waiter.giver = giver
        if not self._deliver(waiter, given):
            return False
        if giver is not None:
            self.tell_giver(giver, waiter)
        return True

    def _deliver(self, waiter: Waiter, given: Any) -> bool:
        """Give a waiter what it waited for, in its own event loop; False if that is closed, and nobody waits there any more."""
        loop = waiter.future.get_loop()
        if loop is _get_running_loop():
            self._deliver_here(waiter, given)
            return True
        try:
            loop.call_soon_threadsafe(self._deliver_here, waiter, given)
        except RuntimeError:
            return False
        return True

    def _deliver_here(self, waiter: Waiter, given: Any) -> None:
        try:
            waiter.future.set_result(given)
        except InvalidStateError:  # it has been cancelled since: from another loop, or by asyncio's handler of ctrl-C
            self._take_back(given, waiter.giver)

    def _take_back(self, given: GuardedRecord | Connect | TurnedAway, giver: Giver | None) -> None:
        """Hand on what was handed over in vain."""
        if isinstance(given, Connect):
            self.drop(given, giver)
        elif not isinstance(given, TurnedAway):
            self.give_back(given, giver)


def _say_nothing(giver: Giver, waiter: Waiter) -> None:
    """Tell nobody."""
