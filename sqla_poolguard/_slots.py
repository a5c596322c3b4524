"""The supply of one pool and who gets what next. It decides; it opens, closes and awaits nothing."""

from __future__ import annotations

import math
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from sqla_poolguard._bounds import Bounds
from sqla_poolguard._breaker import Breaker
from sqla_poolguard._waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._connects import Connect
    from sqla_poolguard._ledger import Lease
    from sqla_poolguard._overload import Priority
    from sqla_poolguard._waiters import Waiter

__all__ = ["Slots"]


class Leasable(Protocol):
    """What fills a slot: a connection record that carries its lease."""

    lease: Lease


R = TypeVar("R", bound=Leasable)


class Slots(Bounds, Generic[R]):
    """
    The slots of one pool.

    A slot is taken while a connection is idle, leased, or being opened or closed (busy).
    The law, between any two calls:

        idle + leased + busy == taken <= most

    where `most` is `limit`, unless that has just fallen (see `Bounds`),
    and nobody waits while a connection is idle and may be used, or a slot is free and the breaker allows to connect.

    `taken` and `records` change, and waiters leave the queue, under `_lock`, which the garbage collector may re-enter.
    Otherwise the deques need no lock: each of their methods is one step of the interpreter.
    """

    __slots__ = (
        "__weakref__",
        "_abandoned",
        "_clock",
        "_leaving",
        "_lock",
        "breaker",
        "idle",
        "put_back",
        "records",
        "take",
        "waiters",
    )

    def __init__(
        self,
        size: int,
        max_overflow: int,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = float,
        *,
        use_lifo: bool = False,
    ) -> None:
        """
        Make empty slots.

        Args:
            size: connections to keep when idle; 0 means no limit at all.
            max_overflow: connections allowed above that; below 0 means no limit.
            breaker: tells whether a connection may be opened in a free slot; by default, any may.
            clock: the pool's clock, in seconds.
            use_lifo: hand out the connection that came back last.
        """
        super().__init__(size, max_overflow)
        self.breaker = breaker or Breaker(math.inf, math.inf, float, opens=False)
        self._clock = clock
        self.idle: deque[R] = deque()
        self.take: Callable[[], R] = self.idle.pop if use_lifo else self.idle.popleft
        self.put_back: Callable[[R], None] = self.idle.append if use_lifo else self.idle.appendleft
        self.waiters = Waiters()
        self.records: set[R] = set()
        """Every record that fills a slot; there are more slots taken by those whose record is not made yet."""
        self._leaving: set[R] = set()
        self._abandoned: set[R] = set()
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        state = ", retired" if self.retired else ""
        return f"<Slots {self.taken} of {self.limit} taken: {len(self.idle)} idle, {len(self.waiters)} waiting{state}>"

    def reserve(self) -> Connect | None:
        """Take a free slot, to open a connection in; None if there is none, or if nobody may connect now."""
        return self._take_slot(self.breaker.begin)

    def reserve_for_probe(self) -> Connect | None:
        """Take a free slot for the breaker's probe; None if there is none, or if no probe is due."""
        return self._take_slot(self.breaker.begin_probe)

    def _take_slot(self, begin: Callable[[float], Connect | None]) -> Connect | None:
        with self._lock:
            connect = begin(self._clock()) if self.taken < self.limit else None
            if connect is not None:
                self.taken += 1
            return connect

    def begin(self) -> Connect | None:
        """Begin to connect in a slot that one has already; None if nobody may connect now."""
        with self._lock:
            return self.breaker.begin(self._clock())

    def connected(self, connect: Connect) -> None:
        """Note that a connect has shown that the database is there; to be followed by a match."""
        with self._lock:
            self.breaker.succeeded(connect, self._clock())

    def not_connected(self, connect: Connect, error: BaseException | None) -> None:
        """Note that a connect failed, or was given up (None); to be followed by a match."""
        with self._lock:
            if error is None:
                self.breaker.abandoned(connect, self._clock())
            else:
                self.breaker.failed(connect, self._clock(), error)

    def give_back(self, connect: Connect) -> None:
        """Free a slot in which nobody has tried to connect; to be followed by a match."""
        with self._lock:
            self.breaker.returned(connect)
            self.vacate(None)

    def finish(self, connect: Connect) -> bool:
        """Note that the slot of a probe has found its end, whatever it is; False if it had one already."""
        with self._lock:
            was_over, connect.is_over = connect.is_over, True
            return not was_over

    def filled(self) -> list[R]:
        """Look at the records, in no order."""
        with self._lock:
            return list(self.records)

    def fill(self, record: R) -> None:
        """Let a record fill the slot that was reserved for it."""
        with self._lock:
            self.records.add(record)

    def vacate(self, record: R | None) -> None:
        """Free a slot: its connection is gone, or never came to be."""
        with self._lock:
            if record is not None:
                if record in self._abandoned:
                    return
                if record not in self.records:
                    msg = f"bug: {record!r} gives back a slot that it does not hold"
                    raise AssertionError(msg)
                self.records.discard(record)
                self._leaving.discard(record)
                self.leaving = len(self._leaving)
            self.taken -= 1
            if self.most > self.limit:
                self.measure()
            if self.taken < len(self.records):
                msg = f"bug: {len(self.records)} records in {self.taken} slots"
                raise AssertionError(msg)

    def match(self) -> tuple[Waiter, R | Connect] | None:
        """
        Pair the first live waiter with an idle connection, or with a free slot, which is then reserved for its connect.

        Returns:
            None when nobody waits or nothing is free.
        """
        with self._lock:
            idle, waiters = self.idle, self.waiters
            while waiters.queued and ((idle and self.taken <= self.limit) or self.may_serve(len(idle)) or self._may_open()):
                waiter = waiters.pop()
                if waiter is None:
                    return None
                if idle:
                    with suppress(IndexError):  # just taken: by another thread, or by the garbage collector
                        return waiter, self.take()
                if (connect := self.reserve()) is not None:
                    return waiter, connect
                waiters.put_back(waiter)
        return None

    def successor(self) -> Waiter | None:
        """Take out the first live waiter for a connection that has come back; None if nobody waits, or it is not that simple."""
        with self._lock:
            return None if self.idle or self.taken > self.limit else self.waiters.pop()

    def expired(self, now: float) -> list[Waiter]:
        """Take out every waiter whose deadline has passed."""
        with self._lock:
            return self.waiters.expired(now)

    def older(self, since: float) -> list[Waiter]:
        """Take out every waiter that has waited since then, or for longer."""
        with self._lock:
            return self.waiters.older(since)

    def next_deadline(self) -> float:
        """When the first waiter's deadline passes; infinity if nobody waits."""
        with self._lock:
            return self.waiters.next_deadline()

    def withdraw(self, waiter: Waiter) -> bool:
        """Take out a waiter that is to be turned away; False if it waits no more."""
        with self._lock:
            return not waiter.future.done() and self.waiters.remove(waiter)

    def enqueue(self, waiter: Waiter) -> None:
        """Put a waiter into the queue; to be followed by a look at what is free."""
        if waiter.deadline < self.waiters.latest:
            with self._lock:
                self.waiters.append(waiter)
        else:
            self.waiters.append(waiter)

    def evict(self, least: Priority) -> Waiter | None:
        """Take out the waiter that is to be turned away first, at most as important as `least`; None if there is none."""
        with self._lock:
            while (waiter := self.waiters.oldest(least)) is not None:
                if self.waiters.remove(waiter):
                    return waiter
        return None

    def gave_up(self, waiter: Waiter) -> None:
        """Note that a waiter left by itself; to be followed by a match."""
        with self._lock:
            self.waiters.gave_up(waiter)

    def surplus(self) -> R | None:
        """Take out an idle connection that is one too many (the one that came last), to be closed; None if there is none."""
        with self._lock, suppress(IndexError):  # another thread took it
            if self.is_surplus(len(self.idle)):
                record = self.idle.pop()
                self._leaving.add(record)
                self.leaving = len(self._leaving)
                return record
        return None

    def resize(self, size: int, max_overflow: int) -> None:
        """Set other bounds; to be followed by a match, and by closing what is surplus."""
        with self._lock:
            self.bound(size, max_overflow)

    def abandon(self) -> list[R]:
        """
        Empty every slot and the queue without closing anything, in a forked child.

        Returns:
            The records that were in the slots; they are remembered, and ignored should they come back.
        """
        self._lock = threading.RLock()  # another thread of the parent may have held it
        abandoned = list(self.records)
        self._abandoned.update(abandoned)
        self.records.clear()
        self.idle.clear()
        self.waiters = Waiters()
        self._leaving.clear()
        self.taken = self.leaving = 0
        self.measure()
        self.breaker.forget()
        return abandoned

    def out(self) -> list[R]:
        """Look at the records that are out, in no order."""
        return [record for record in self.filled() if record.lease.granted_at is not None]

    def leases(self) -> list[Lease]:
        """Look at the leases that are out, in no order."""
        return [record.lease for record in self.out()]

    def broken_law(self) -> str | None:
        """Compare the slots with their law; return the figures if it does not hold."""
        with self._lock:
            idle, leased, taken, live = len(self.idle), len(self.leases()), self.taken, len(self.waiters)
            busy = taken - idle - leased
            sound = busy >= self.leaving >= 0 and taken <= self.most and len(self.records) <= taken
            awake = not (live and (self.may_serve(idle) or self._may_open()))
            if sound and awake:
                return None
            return (
                f"law broken: idle {idle} + leased {leased} + busy {busy} == taken {taken} <= most {self.most}, "
                f"limit {self.limit}, {self.leaving} leaving, {len(self.records)} records, {live} waiting"
            )

    def _may_open(self) -> bool:
        """Tell whether a connection may be opened now, in a free slot."""
        return self.taken < self.limit and self.breaker.may_begin()
