"""
The instruments, and what they are told at export: what is, is read from the ledger; what took time, is recorded.

It knows neither pool nor SQLAlchemy, and neither makes nor configures an SDK.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Observation

from sqla_poolguard._levels import breakers, connections, most_idle, most_open
from sqla_poolguard._otel import _names as names
from sqla_poolguard._otel._instruments import make_histogram, no_context, nobody_measures, real_meter
from sqla_poolguard._otel._measured import Measured
from sqla_poolguard._otel._neighbours import counted_by_others
from sqla_poolguard._otel._pace import Pace
from sqla_poolguard._samples import SAMPLES_KEPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, Meter

    from sqla_poolguard._ledger import Ledger

    _Read = Callable[[Measured, Ledger], Iterable[Observation]]

__all__ = ["GAUGES", "Metrics"]

_SHARE: Final = 0.25
"""Of the time that is left to a collection, what one callback may use; there are six, and those of others."""

_MOST_LEFT: Final = 64
"""Collected engines of which something is kept for an SDK that may come."""

_MOST_FULL: Final = 8
"""Full buffers of samples that collected engines may leave, one with the other, for an SDK's next export: some 14 MB. Those beyond are forgotten."""

_AT_ONCE: Final = 128
"""Samples of collected engines that may be recorded while another is made, if there are too many engines: some 3 ms."""

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
        self._pace = Pace()
        self.failed = False
        """Whether something could not be recorded on behalf of a checkout, and the log says so."""
        for (name, unit, description), read in GAUGES.items():
            meter.create_observable_up_down_counter(name, [partial(self._observe, read)], unit, description)
        _every.add(self)

    def measure(self, ledger: Ledger, name: str) -> Measured:
        """Measure the pool of these books from now on, under this name."""
        for pools in self._families():
            for other in pools.copy():
                other.make_way(name)
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
        With one, what waits is for the next export; only of engines that are too many some samples are recorded here.
        """
        is_awake = not nobody_measures(self.wait_time)
        room, left, at_once = SAMPLES_KEPT * (_MOST_FULL if is_awake else 1), _MOST_LEFT, _AT_ONCE
        for pool in reversed(self._pools.copy()):
            if pool.ledger() is None:
                left -= 1
                at_once -= pool.wind_up(room, at_once if left <= 0 and is_awake else 0)
                room -= len(pool.samples)
                _drop_if_done(pool, self._pools, in_vain=left <= 0 and not is_awake)

    def _drain(self, options: CallbackOptions) -> Iterator[Measured]:
        """
        Record the samples that wait, pool by pool, letting other threads run in between; give the pools whose engines live.

        It records no more when its share of the time is used up, and leaves the rest to the next: a collection that runs late is dropped whole.
        What it gives is not looked at all at once: what an SDK does with each is done between two pauses too.
        """
        until, pace = time.monotonic() + options.timeout_millis / 1000 * _SHARE, self._pace
        for pools in self._families():
            for pool in pools.copy():
                pace.step()
                pool.deal()
                for number in range(len(pool.samples)):
                    if (pace.step() or not number) and time.monotonic() > until:
                        break
                    pool.record_next()
                is_over = pool.ledger() is None
                pool.deal()  # what has come meanwhile is all, if the engine is gone by now
                for _ in pool.tell_totals():
                    pace.step()
                if is_over:
                    _drop_if_done(pool, pools)
                else:
                    yield pool

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

    def _observe(self, read: _Read, options: CallbackOptions) -> Iterator[Observation]:
        """Drain, and observe the pools; a callback. An SDK may have any of the instruments turned off, so each of them drains."""
        for pool in self._drain(options):
            yield from pool.quietly(_read, pool, read) or ()


def _read(pool: Measured, read: _Read) -> list[Observation]:
    """Read a pool's books, and let go of them: as long as an exporter has them, they seem to live."""
    ledger = pool.ledger()
    return list(read(pool, ledger)) if ledger is not None else []


def _count(pool: Measured, ledger: Ledger) -> Iterable[Observation]:
    if not pool.yields_to(counted_by_others(ledger.listeners())):
        idle, used = connections(ledger)
        yield Observation(idle, pool.idle)
        yield Observation(used, pool.used)


def _max(pool: Measured, ledger: Ledger) -> Iterable[Observation]:
    limit = most_open(ledger)
    if limit is not None:
        yield Observation(limit, pool.attributes)


def _idle_max(pool: Measured, ledger: Ledger) -> Iterable[Observation]:
    size = most_idle(ledger)
    if size is not None:
        yield Observation(size, pool.attributes)


def _idle_min(pool: Measured, _: Ledger) -> Iterable[Observation]:
    yield Observation(0, pool.attributes)


def _pending_requests(pool: Measured, ledger: Ledger) -> Iterable[Observation]:
    yield Observation(ledger.waiting, pool.attributes)


def _breaker_state(pool: Measured, ledger: Ledger) -> Iterable[Observation]:
    for state, number in breakers(ledger).items():
        yield Observation(number, {**pool.attributes, names.BREAKER: str(state)})


GAUGES: Final[dict[names.Instrument, _Read]] = {
    names.CONNECTION_COUNT: _count,
    names.CONNECTION_MAX: _max,
    names.CONNECTION_IDLE_MAX: _idle_max,
    names.CONNECTION_IDLE_MIN: _idle_min,
    names.CONNECTION_PENDING_REQUESTS: _pending_requests,
    names.BREAKER_STATE: _breaker_state,
}
"""What is observed of each pool, and how."""


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
