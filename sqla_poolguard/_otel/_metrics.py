"""
The instruments, and what they are told at export: what is, is read from the ledger; what took time, is recorded.

It knows neither pool nor SQLAlchemy, and neither makes nor configures an SDK.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Observation

from sqla_poolguard._levels import breakers, connections, most_idle, most_open
from sqla_poolguard._otel import _names as names
from sqla_poolguard._otel._instruments import make_histogram, no_context, real_meter
from sqla_poolguard._otel._measured import Measured
from sqla_poolguard._otel._neighbours import counted_by_others
from sqla_poolguard._samples import SAMPLES_KEPT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from sqla_poolguard._ledger import Ledger

__all__ = ["Metrics"]

_BATCH: Final = 8
"""
Samples to record before other threads may run: some 150 us, for which an event loop has to wait at most.

A drain that never pauses costs an event loop the interpreter's switch interval, 5 ms, at each of its turns.
"""

_SHARE: Final = 0.25
"""Of the time that is left to a collection, what one callback may use; there are six, and those of others."""

_MOST_LEFT: Final = 64
"""Collected engines of which something is kept for an SDK that may come."""

_every: Final[weakref.WeakSet[Metrics]] = weakref.WeakSet()


class Metrics:
    """
    The instruments of one meter, and the pools that are measured with them.

    They are made once: there is no way to take a callback back, and to make an instrument inside one is a dead lock.
    A collection runs all callbacks first and collects histograms and counters after that,
    so that what a callback records is part of the same export, and nothing is lost at `force_flush()` and `shutdown()`.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
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
        room, left = SAMPLES_KEPT, _MOST_LEFT
        for pool in reversed(self._pools.copy()):
            if pool.ledger() is None:
                left -= 1
                pool.wind_up(room if left > 0 else 0)
                room -= len(pool.samples)
                _drop_if_done(pool, self._pools, in_vain=left <= 0)

    def _drain(self, options: CallbackOptions) -> list[tuple[Measured, Ledger]]:
        """
        Record the samples that wait, letting other threads run in between.

        It stops when its share of the time is used up, and leaves the rest to the next: a collection that runs late is dropped whole.

        Returns:
            The pools whose engines live.
        """
        until = time.monotonic() + options.timeout_millis / 1000 * _SHARE
        living = []
        for pools in self._families():
            for pool in pools.copy():
                pool.deal()
                for number in range(len(pool.samples)):
                    if number % _BATCH == 0:
                        time.sleep(0)
                        if time.monotonic() > until:
                            break
                    pool.record_next()
                ledger = pool.ledger()
                pool.deal()  # what has come meanwhile is all, if the engine is gone by now
                pool.tell_totals()
                if ledger is not None:
                    living.append((pool, ledger))
                else:
                    _drop_if_done(pool, pools)
        return living

    def _families(self) -> list[list[Measured]]:
        """
        Give the pools of this meter: ours, and those of a set that was made before its provider was known to be the same.

        An SDK that has an instrument already takes no further callback for it.
        """
        own = real_meter(self._meter)
        while True:
            try:
                return [metrics._pools for metrics in _every if metrics is self or real_meter(metrics._meter) is own]
            except RuntimeError:  # another thread has made a set meanwhile
                continue

    # the callbacks: an SDK may have any of the instruments turned off, so each of them drains

    def _count(self, options: CallbackOptions) -> Iterable[Observation]:
        found = []
        for pool, ledger in self._drain(options):
            if pool.yields_to(counted_by_others(ledger.listeners())):
                continue
            idle, used = connections(ledger)
            found += [Observation(idle, pool.idle), Observation(used, pool.used)]
        return found

    def _max(self, options: CallbackOptions) -> Iterable[Observation]:
        found = []
        for pool, ledger in self._drain(options):
            limit = most_open(ledger)
            if limit is not None:
                found.append(Observation(limit, pool.attributes))
        return found

    def _idle_max(self, options: CallbackOptions) -> Iterable[Observation]:
        found = []
        for pool, ledger in self._drain(options):
            size = most_idle(ledger)
            if size is not None:
                found.append(Observation(size, pool.attributes))
        return found

    def _idle_min(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(0, pool.attributes) for pool, _ in self._drain(options)]

    def _pending_requests(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(ledger.waiting, pool.attributes) for pool, ledger in self._drain(options)]

    def _breaker_state(self, options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(number, {**pool.attributes, names.BREAKER: str(state)})
            for pool, ledger in self._drain(options)
            for state, number in breakers(ledger).items()
        ]


def _drop_if_done(pool: Measured, pools: list[Measured], *, in_vain: bool = False) -> None:
    """Drop a pool whose engine was collected once all its samples are recorded, or nobody will ever ask for them."""
    if pool.ledger() is None and (in_vain or not pool.samples):
        with contextlib.suppress(ValueError):  # another thread did
            pools.remove(pool)


def _forked() -> None:
    for metrics in _every:
        metrics.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
