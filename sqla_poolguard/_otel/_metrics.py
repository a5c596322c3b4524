"""
The instruments, and what they are told at export: what is, is read from the ledger; what took time, is recorded.

It knows neither pool nor SQLAlchemy, and neither makes nor configures an SDK.
"""

from __future__ import annotations

import os
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.metrics import Observation

from sqla_poolguard._connects import BreakerState
from sqla_poolguard._ledger import SAMPLES_KEPT
from sqla_poolguard._otel import _names as names
from sqla_poolguard._otel._instruments import make_histogram, no_context
from sqla_poolguard._otel._measured import Measured
from sqla_poolguard._otel._neighbours import counted_by_others

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from sqla_poolguard._ledger import Ledger
    from sqla_poolguard._slots import Slots

__all__ = ["Metrics"]

_BATCH: Final = 8
"""
Samples to record before other threads may run: some 150 us, for which an event loop has to wait at most.

A drain that never pauses costs an event loop the interpreter's switch interval, 5 ms, at each of its turns.
"""

_SHARE: Final = 0.25
"""Of the time that is left to a collection, what one callback may use; there are six, and those of others."""

_every: Final[weakref.WeakSet[Metrics]] = weakref.WeakSet()


class Metrics:
    """
    The instruments of one meter, and the pools that are measured with them.

    They are made once: there is no way to take a callback back, and to make an instrument inside one is a dead lock.
    A collection runs all callbacks first and collects histograms and counters after that,
    so that what a callback records is part of the same export, and nothing is lost at `force_flush()` and `shutdown()`.
    """

    def __init__(self, meter: Meter) -> None:
        self._pools: list[Measured] = []
        """
        In the order of their making. It needs no lock: it is changed in single steps of the interpreter, and read as a copy.
        """
        self.timeouts = meter.create_counter(*names.CONNECTION_TIMEOUTS)
        self.rejections = meter.create_counter(*names.REJECTIONS)
        self.would_reject = meter.create_counter(*names.WOULD_REJECT)
        self.leaks = meter.create_counter(*names.LEAKS)
        self.spans_suppressed = meter.create_counter(*names.SPANS_SUPPRESSED)
        self.foreign_await_time = meter.create_counter(*names.FOREIGN_AWAIT_TIME)
        self.create_time = make_histogram(meter, names.CONNECTION_CREATE_TIME)
        self.wait_time = make_histogram(meter, names.CONNECTION_WAIT_TIME)
        self.use_time = make_histogram(meter, names.CONNECTION_USE_TIME)
        self.nowhere = no_context(self.wait_time)
        self.failed = False
        """Whether something could not be recorded on behalf of a checkout, and the log says so."""
        for instrument, read in (
            (names.CONNECTION_COUNT, self._count),
            (names.CONNECTION_MAX, self._max),
            (names.CONNECTION_IDLE_MAX, self._idle_max),
            (names.CONNECTION_IDLE_MIN, self._idle_min),
            (names.CONNECTION_PENDING_REQUESTS, self._pending_requests),
            (names.BREAKER_STATE, self._breaker_state),
        ):
            name, unit, description = instrument
            meter.create_observable_up_down_counter(name, [read], unit, description)
        _every.add(self)

    def measure(self, ledger: Ledger, name: str) -> Measured:
        """Measure the pool of these books from now on, under this name."""
        self._thin_out()
        pool = Measured(self, ledger, name)
        self._pools.append(pool)
        ledger.spill = pool.spill
        return pool

    def forget(self) -> None:
        """Forget what has not been recorded yet: in a forked child, where the parent records it."""
        for pool in self._pools:
            pool.forget()

    def _thin_out(self) -> None:
        """
        Keep what collected engines left behind within bounds, the newest of it, give or take a batch.

        Without an SDK nobody ever asks for it, and an application may make and drop engines all day.
        """
        room = SAMPLES_KEPT
        for pool in reversed(self._pools.copy()):
            if pool.ledger() is None:
                pool.wind_up(room)
                room -= len(pool.samples)
                self._drop_if_done(pool)

    def _drop_if_done(self, pool: Measured) -> None:
        """Drop a pool whose engine was collected once all its samples are recorded."""
        if pool.ledger() is None and not pool.samples:
            try:
                self._pools.remove(pool)
            except ValueError:  # another thread did
                return

    def _drain(self, options: CallbackOptions) -> list[tuple[Measured, Ledger]]:
        """
        Record the samples that wait, letting other threads run in between.

        It stops when its share of the time is used up, and leaves the rest to the next: a collection that runs late is dropped whole.

        Returns:
            The pools whose engines live.
        """
        until = time.monotonic() + options.timeout_millis / 1000 * _SHARE
        living = []
        for pool in self._pools.copy():
            for number in range(len(pool.samples)):
                if number % _BATCH == 0:
                    time.sleep(0)
                    if time.monotonic() > until:
                        break
                pool.record_next()
            pool.tell_totals()
            ledger = pool.ledger()
            if ledger is not None:
                living.append((pool, ledger))
            else:
                self._drop_if_done(pool)
        return living

    # the callbacks: an SDK may have any of the instruments turned off, so each of them drains

    def _count(self, options: CallbackOptions) -> Iterable[Observation]:
        found = []
        for pool, ledger in self._drain(options):
            if pool.yields_to(counted_by_others(ledger.listeners())):
                continue
            idle = used = 0
            for slots in ledger.pools():
                idle += sum(record.dbapi_connection is not None for record in slots.idle.copy())
                used += len(slots.leases())
            found += [Observation(idle, pool.idle), Observation(used, pool.used)]
        return found

    def _max(self, options: CallbackOptions) -> Iterable[Observation]:
        found = []
        for pool, ledger in self._drain(options):
            limit = max((slots.limit for slots in _current(ledger)), default=0)
            if 0 < limit < float("inf"):
                found.append(Observation(int(limit), pool.attributes))
        return found

    def _idle_max(self, options: CallbackOptions) -> Iterable[Observation]:
        found = []
        for pool, ledger in self._drain(options):
            size = max((slots.size for slots in _current(ledger)), default=0)
            if size:
                found.append(Observation(size, pool.attributes))
        return found

    def _idle_min(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(0, pool.attributes) for pool, _ in self._drain(options)]

    def _pending_requests(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(ledger.waiting, pool.attributes) for pool, ledger in self._drain(options)]

    def _breaker_state(self, options: CallbackOptions) -> Iterable[Observation]:
        found = []
        for pool, ledger in self._drain(options):
            breakers = [slots.breaker for slots in _current(ledger) if slots.breaker.opens]
            for state in BreakerState if breakers else ():
                number = sum(breaker.state is state for breaker in breakers)
                found.append(Observation(number, {**pool.attributes, names.BREAKER: str(state)}))
        return found


def _current(ledger: Ledger) -> list[Slots[Any]]:
    """
    Give the slots that are in use.

    There are several only after `dispose(close=False)`, each of the same size.
    """
    return [slots for slots in ledger.pools() if not slots.retired]


def _forked() -> None:
    for metrics in _every:
        metrics.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
