"""What is measured of one engine's pool: the samples that wait to be recorded, and the totals. It makes no instrument."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from asyncio import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqla_poolguard._facts import Reason
from sqla_poolguard._otel import _names as names
from sqla_poolguard._otel._instruments import nobody_measures
from sqla_poolguard._otel._total import Total
from sqla_poolguard._samples import FORGOTTEN, take

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import Counter

    from sqla_poolguard._ledger import Ledger
    from sqla_poolguard._otel._metrics import Metrics
    from sqla_poolguard._samples import Sample

__all__ = ["Measured"]

_GLANCE: Final = 0.0001
_PATIENCE: Final = 1000
"""How often to look whether other threads have dealt, with a glance's pause: they need less than one."""

_T = TypeVar("_T")

_log: Final = logging.getLogger("sqla_poolguard")


def _gone() -> None:
    """Stand for the books of an engine that was collected."""


class Measured:
    """
    The pool of one engine, through all its generations.

    It keeps the samples and the totals alive, and not the ledger: what an engine measured is reported although it was collected.
    """

    def __init__(self, metrics: Metrics, ledger: Ledger, name: str) -> None:
        self._metrics = metrics
        self.ledger: Callable[[], Ledger | None] = weakref.ref(ledger)
        self._dealt = ledger.dealt
        self._share = ledger.dealt.join(self.spill)
        self.attributes = {names.POOL_NAME: name}
        self.idle = {**self.attributes, names.STATE: names.IDLE}
        self.used = {**self.attributes, names.STATE: names.USED}
        self._counted = totals = ledger.totals
        self._timeouts = self._total(metrics.timeouts, partial(totals.rejected.get, Reason.TIMEOUT))
        self._rejections = {
            reason: self._total(metrics.rejections, partial(totals.rejected.get, reason), names.REASON, reason)
            for reason in totals.rejected
        }
        leaks = [self._total(metrics.leaks, partial(totals.leaks.get, kind), names.KIND, kind) for kind in totals.leaks]
        self._totals = (
            self._timeouts,
            *self._rejections.values(),
            *leaks,
            self._total(metrics.would_reject, lambda: totals.would_reject),
            self._total(metrics.spans_suppressed, lambda: totals.spans_suppressed),
            self._total(metrics.foreign_await_time, lambda: totals.foreign_await),
        )
        self._early: dict[float, int] = {}
        """Wait times that were recorded at once, and how often: of as many samples, only the use time is still to be recorded."""
        self._early_lock = threading.RLock()
        self._beside: str | None = None
        """The name under which another instrumentation counts the connections, as far as that was told."""

    def make_way(self, name: str) -> None:
        """Make way for the engine that is called so: if that was this one's name, it is gone, although somebody may still read its books."""
        if self.attributes[names.POOL_NAME] == name:
            self.ledger = _gone

    def _total(
        self, counter: Counter, read: Callable[[], float | None], name: str | None = None, value: str | None = None
    ) -> Total:
        more = {name: str(value)} if name is not None else {}
        return Total(counter, read, {**self.attributes, **more})

    # at once, in the context of the caller: who looks for an example finds its trace

    @property
    def is_awake(self) -> bool:
        """Whether there is an SDK that measures."""
        return not nobody_measures(self._metrics.wait_time)

    def created(self, seconds: float) -> None:
        """Record how long it took to open a connection."""
        self._metrics.create_time.record(seconds, self.attributes)

    def waited(self, seconds: float) -> None:
        """Record a long wait; its sample, which comes when the lease ends, will tell only the use time."""
        if not self.is_awake:
            return
        self._metrics.wait_time.record(seconds, self.attributes)
        with self._early_lock:
            self._early[seconds] = self._early.get(seconds, 0) + 1

    def rejected(self, reason: Reason) -> None:
        """Count a request that got no connection."""
        if reason is Reason.TIMEOUT:
            self._timeouts.tell()
        self._rejections[reason].tell()

    # later

    @property
    def samples(self) -> deque[Sample]:
        """Those that are still to be recorded, once they are dealt."""
        return self._share.queue

    def deal(self) -> None:
        """Get what has come meanwhile, and what other threads are just dealing: it may be the last time that anybody looks."""
        self._dealt.deal()
        for _ in range(_PATIENCE):
            if self._dealt.is_dealt:
                return
            time.sleep(_GLANCE)

    def yields_to(self, other: str | None) -> bool:
        """
        Tell whether to leave the count of connections to another instrumentation, since it has the same name; and tell the user.

        Args:
            other: the name under which the other one counts them; None if there is none.
        """
        if other != self._beside:
            self._beside = other
            if other is not None:
                _log.info(
                    "pool %r: opentelemetry-instrumentation-sqlalchemy counts its connections too, as %s%s",
                    self.attributes[names.POOL_NAME],
                    other,
                    "; ours are left out" if other == names.CONNECTION_COUNT.name else "",
                )
        return other == names.CONNECTION_COUNT.name

    def quietly(self, tell: Callable[..., _T], *arguments: Any) -> _T | None:
        """Tell, or read, and have nobody else fail for what an SDK, or whoever listens to this pool, raises: neither a checkout nor an export."""
        try:
            return tell(*arguments)
        except (Exception, CancelledError):  # noqa: BLE001 - nor is a cancellation of their own making the caller's
            self._fail()
        return None

    def tell_totals(self) -> Iterator[None]:
        """Count what has not been counted yet, step by step: at the first time that is everything."""
        for total in self._totals:
            if self.quietly(total.tell, *self._metrics.nowhere):
                yield

    def record_next(self) -> None:
        """Record the oldest sample; if another thread was faster, nothing. What an instrument refuses is lost, and nothing else."""
        self.quietly(self._record_next)

    def _record_next(self) -> None:
        samples, metrics, attributes = self.samples, self._metrics, self.attributes
        try:
            waited, held = samples.popleft()
        except IndexError:
            return
        if not self._early or not self._was_early(waited):
            metrics.wait_time.record(waited, attributes, *metrics.nowhere)
        metrics.use_time.record(held, attributes, *metrics.nowhere)

    def _was_early(self, waited: float) -> bool:
        """Tell whether a wait time was recorded already; which one of several that are equal does not matter."""
        with self._early_lock:
            left = self._early.pop(waited, 0) - 1
            if left > 0:
                self._early[waited] = left
        return left >= 0

    def spill(self, samples: deque[Sample]) -> None:
        """
        Record the oldest sample on behalf of a checkout, which must not fail for it; without an SDK, forget the oldest ones.

        Never to be called by the garbage collector: it may run inside an SDK, which holds a lock.
        """
        self.quietly(self._spill, samples)

    def _spill(self, samples: deque[Sample]) -> None:
        if self.is_awake:
            self._record_next()
        else:
            take(samples, FORGOTTEN)

    def wind_up(self, room: int, at_once: int) -> int:
        """
        Tell what an engine that was collected has counted, and leave its samples to the next export.

        Args:
            room: samples that may be left; of what is too much, the oldest are forgotten.
            at_once: samples that may be recorded here: another engine is being made, and an event loop waits for it.

        Returns:
            How many were recorded.
        """
        for _ in self.tell_totals():
            pass
        self.deal()
        take(self.samples, max(len(self.samples) - room, 0))
        now = min(len(self.samples), at_once)
        for _ in range(now):
            self.record_next()
        return now

    def _fail(self) -> None:
        if not self._metrics.failed:
            self._metrics.failed = True
            _log.exception("a measurement of %r could not be recorded; further failures are not logged", self.attributes)

    def forget(self) -> None:
        """Forget what has not been recorded yet: in a forked child, where the parent records it."""
        self._dealt.forget()
        self.samples.clear()
        self._early_lock = threading.RLock()
        self._early.clear()
        self._counted.forget()  # those of a collected engine: nobody else remembers them
        for total in self._totals:
            total.forget()
