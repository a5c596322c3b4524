"""
The nine metrics of a connection pool: what is, is read from the ledger at export; what took time, is recorded.

It knows neither pool nor SQLAlchemy, and neither makes nor configures an SDK.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.metrics import Observation
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from sqla_poolguard._levels import connections, most_idle, most_open
from sqla_poolguard._otel import _names as names
from sqla_poolguard._samples import SAMPLES_KEPT

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from sqla_poolguard._ledger import Ledger
    from sqla_poolguard._samples import Sample

__all__ = ["Metrics", "PoolMetrics"]

_log: Final = logging.getLogger("sqla_poolguard")

_BATCH: Final = 16
"""
Samples to record before other threads may run.

A drain that never pauses costs an event loop the interpreter's switch interval, 5 ms, at each of its turns.
"""

_SHARE: Final = 0.25
"""Of the time that is left to a collection, what one callback may use; there are five, and those of others."""

_SPILLED: Final = 256
"""Samples to forget at once while there is no SDK, so that only few checkouts pay for it."""

_every: Final[weakref.WeakSet[Metrics]] = weakref.WeakSet()


class Metrics:
    """
    The instruments of one meter, and the pools that are measured with them.

    They are made once: there is no way to take a callback back, and to make an instrument inside one is a dead lock.
    A collection runs all callbacks first and collects the histograms after that,
    so that what a callback records is part of the same export, and nothing is lost at `force_flush()` and `shutdown()`.
    """

    def __init__(self, meter: Meter) -> None:
        self._pools: list[PoolMetrics] = []
        """
        In the order of their making. It needs no lock: it is changed in single steps of the interpreter, and read as a copy.
        """
        self.timeouts = meter.create_counter(*names.CONNECTION_TIMEOUTS)
        self.create_time = _histogram(meter, names.CONNECTION_CREATE_TIME)
        self.wait_time = _histogram(meter, names.CONNECTION_WAIT_TIME)
        self.use_time = _histogram(meter, names.CONNECTION_USE_TIME)
        self.nowhere = _no_context(self.wait_time)
        self.failed = False
        """Whether a checkout failed to record a sample, and the log says so."""
        for instrument, read in (
            (names.CONNECTION_COUNT, self._count),
            (names.CONNECTION_MAX, self._max),
            (names.CONNECTION_IDLE_MAX, self._idle_max),
            (names.CONNECTION_IDLE_MIN, self._idle_min),
            (names.CONNECTION_PENDING_REQUESTS, self._pending_requests),
        ):
            name, unit, description = instrument
            meter.create_observable_up_down_counter(name, [read], unit, description)
        for instrument, read in ((names.REJECTIONS, self._rejections), (names.WOULD_REJECT, self._would_reject)):
            name, unit, description = instrument
            meter.create_observable_counter(name, [read], unit, description)
        _every.add(self)

    def measure(self, ledger: Ledger, name: str) -> PoolMetrics:
        """Measure the pool of these books from now on, under this name."""
        self._thin_out()
        pool = PoolMetrics(self, ledger, name)
        self._pools.append(pool)
        return pool

    def forget_samples(self) -> None:
        """Forget what has not been recorded yet: in a forked child, where the parent records it."""
        for pool in self._pools:
            pool.samples.clear()

    def _thin_out(self) -> None:
        """
        Keep what collected engines left behind within bounds, the newest of it, give or take a batch.

        Without an SDK nobody ever asks for it, and an application may make and drop engines all day.
        """
        room = SAMPLES_KEPT
        for pool in reversed(self._pools.copy()):
            if pool.ledger() is None:
                pool.deal()
                while len(pool.samples) > room:
                    pool.spill(pool.samples)
                room -= len(pool.samples)
                self._drop_if_done(pool)

    def _drop_if_done(self, pool: PoolMetrics) -> None:
        """Drop a pool whose engine was collected once all its samples are recorded."""
        if pool.ledger() is None and not pool.samples:
            try:
                self._pools.remove(pool)
            except ValueError:  # another thread did
                return

    def _drain(self, options: CallbackOptions) -> list[tuple[PoolMetrics, Ledger]]:
        """
        Record the samples that wait, letting other threads run in between.

        It stops when its share of the time is used up, and leaves the rest to the next: a collection that runs late is dropped whole.

        Returns:
            The pools whose engines live.
        """
        until = time.monotonic() + options.timeout_millis / 1000 * _SHARE
        living = []
        for pool in self._pools.copy():
            pool.deal()
            for number in range(len(pool.samples)):
                if number % _BATCH == 0:
                    time.sleep(0)
                    if time.monotonic() > until:
                        break
                pool.record_next()
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

    def _rejections(self, options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {**pool.attributes, names.REASON: str(reason)})
            for pool, ledger in self._drain(options)
            for reason, count in ledger.rejected.items()
            if count
        ]

    def _would_reject(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(ledger.would_reject, pool.attributes) for pool, ledger in self._drain(options)]


class PoolMetrics:
    """
    The metrics of one engine's pool, through all its generations.

    It keeps the samples alive, and not the ledger: what an engine measured is reported although it was collected.
    """

    __slots__ = ("_dealt", "_metrics", "_share", "attributes", "idle", "ledger", "used")

    def __init__(self, metrics: Metrics, ledger: Ledger, name: str) -> None:
        self._metrics = metrics
        self.ledger = weakref.ref(ledger)
        self._dealt = ledger.dealt
        self._share = ledger.dealt.join(self.spill)
        self.attributes = {names.POOL_NAME: name}
        self.idle = {**self.attributes, names.STATE: names.IDLE}
        self.used = {**self.attributes, names.STATE: names.USED}

    @property
    def samples(self) -> deque[Sample]:
        """Those that are still to be recorded, once they are dealt."""
        return self._share.queue

    def deal(self) -> None:
        """Get what has come meanwhile."""
        self._dealt.deal()

    def record_next(self) -> None:
        """Record the oldest sample; if another thread was faster, nothing."""
        samples, metrics, attributes = self.samples, self._metrics, self.attributes
        try:
            waited, held = samples.popleft()
        except IndexError:
            return
        metrics.wait_time.record(waited, attributes, *metrics.nowhere)
        metrics.use_time.record(held, attributes, *metrics.nowhere)

    def spill(self, samples: deque[Sample]) -> None:
        """
        Record the oldest sample on behalf of a checkout, which must not fail for it; without an SDK, forget the oldest ones.

        Never to be called by the garbage collector: it may run inside an SDK, which holds a lock.
        """
        metrics, attributes = self._metrics, self.attributes
        try:
            if _nobody_measures(metrics.wait_time):
                for _ in range(_SPILLED):
                    samples.popleft()
                return
            waited, held = samples.popleft()
            metrics.wait_time.record(waited, attributes, *metrics.nowhere)
            metrics.use_time.record(held, attributes, *metrics.nowhere)
        except IndexError:  # another thread was faster
            return
        except Exception:  # noqa: BLE001 - whatever it is, the checkout goes on
            if not metrics.failed:
                metrics.failed = True
                _log.exception("a sample of %r could not be recorded; further failures are not logged", attributes)

    def created(self, seconds: float) -> None:
        """Record how long it took to open a connection."""
        self._metrics.create_time.record(seconds, self.attributes)

    def timed_out(self) -> None:
        """Count a request that timed out."""
        self._metrics.timeouts.add(1, self.attributes)


def _nobody_measures(histogram: Histogram) -> bool:
    """Tell whether an instrument stands for one that an SDK, which is not there yet, would make."""
    return getattr(histogram, "_real_instrument", histogram) is None


def _histogram(meter: Meter, instrument: names.Instrument) -> Histogram:
    """Make a histogram of seconds; a meter of an older API than 1.30 takes no advice about buckets."""
    try:
        return meter.create_histogram(*instrument, explicit_bucket_boundaries_advisory=names.SECONDS_BUCKETS)
    except TypeError:
        return meter.create_histogram(*instrument)


def _no_context(histogram: Histogram) -> tuple[Any, ...]:
    """
    Tell how to record a sample later, in a context that is not its own.

    Without one it would become an exemplar for whatever trace is current then.
    A context that is quite empty will not do: an SDK takes it for none.
    Before API 1.30 `record` takes no context, and makes no exemplars.
    """
    takes_context = "context" in inspect.signature(histogram.record).parameters
    return (set_span_in_context(INVALID_SPAN, Context()),) if takes_context else ()


def _forked() -> None:
    for metrics in _every:
        metrics.forget_samples()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
