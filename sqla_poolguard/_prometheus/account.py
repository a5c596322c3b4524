"""What goes under one pool's name, through all engines that had it one after the other. It knows no Prometheus."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Final

from sqla_poolguard._durations import Durations
from sqla_poolguard._samples import take
from sqla_poolguard._totals import Totals

if TYPE_CHECKING:
    from collections import deque

    from sqla_poolguard._ledger import Ledger
    from sqla_poolguard._samples import Sample, Samples, Share

__all__ = ["Account"]

_BATCH: Final = 512
"""Samples to count before other threads may run: a tenth of a millisecond."""


class Account:
    """
    The totals of one name: they go on when an engine is disposed of or collected, and another one takes its name.

    Samples are counted when somebody looks. A checkout counts some only where too many wait, as when nobody looks for long.
    """

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name = name
        self._wait_times = Durations()
        self._use_times = Durations()
        self._lock = threading.Lock()
        """For those who count samples, and those who want to see the sum of them."""
        self._totals: tuple[Totals, ...] = ()
        """Those of the engines before, and of the last one."""
        self._shares: tuple[Share, ...] = ()
        """Those of the engine before, to which another thread may still be dealing, and of the last one."""
        self._begin(ledger)

    def _begin(self, ledger: Ledger) -> None:
        share = ledger.dealt.join(self._spill)
        with self._lock:
            self._ledger = weakref.ref(ledger)
            self._totals = (self.totals(), ledger.totals)
            self._shares = (*self._shares[-1:], share)
            self._dealt: Samples | None = ledger.dealt

    def go_on(self, ledger: Ledger) -> None:
        """Go on with the books of another engine; the one before was collected, since its name was free."""
        self._fold()
        self._begin(ledger)

    @property
    def ledger(self) -> Ledger | None:
        """The books, while the engine lives."""
        return self._ledger()

    def totals(self) -> Totals:
        """Tell what was counted up to now."""
        found = Totals()
        for totals in self._totals:
            found.absorb(totals)
        return found

    def times(self) -> tuple[Durations, Durations]:
        """Tell how long was waited, and how long connections were used."""
        self._fold()
        found = Durations(), Durations()
        with self._lock:
            found[0].absorb(self._wait_times)
            found[1].absorb(self._use_times)
        return found

    def forget(self) -> None:
        """Begin anew, in a forked child: what was counted is the parent's, and so is a thread that may have had the lock."""
        self._lock = threading.Lock()
        self._wait_times.forget()
        self._use_times.forget()
        for totals in self._totals:
            totals.forget()
        for share in self._shares:
            share.queue.clear()

    def _fold(self) -> None:
        """Count the samples that have come; those that come meanwhile are for the next time."""
        dealt, is_over = self._dealt, self.ledger is None
        if dealt is not None:
            dealt.deal()
            if is_over:
                self._let_go(dealt)
        for share in self._shares:
            for _ in range(0, len(share.queue), _BATCH):
                with self._lock:
                    self._count(share.queue)
                time.sleep(0)

    def _let_go(self, dealt: Samples) -> None:
        """Forget where samples came from: others may have joined there, whom this would keep alive."""
        with self._lock:
            if self._dealt is dealt:
                self._dealt = None

    def _spill(self, queue: deque[Sample]) -> None:
        """Make room, on behalf of a checkout; while somebody else does, there will be some."""
        if self._lock.acquire(blocking=False):
            try:
                self._count(queue)
            finally:
                self._lock.release()

    def _count(self, queue: deque[Sample]) -> None:
        batch = take(queue, _BATCH)
        self._wait_times.add_all([waited for waited, _ in batch])
        self._use_times.add_all([used for _, used in batch])
