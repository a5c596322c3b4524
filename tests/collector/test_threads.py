"""A scrape takes samples out in a thread of its own while the event loop goes on: nobody is in anybody's way."""

from __future__ import annotations

import sys
import threading
from collections import deque

import pytest

from sqla_poolguard._admission import Pace
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._prometheus.account import Account


@pytest.fixture(autouse=True)
def restless():
    """Let threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_admission_looks_at_samples_that_are_taken_out():
    """Whom the pool could serve is predicted from the last samples; that another thread takes some out meanwhile breaks no checkout."""
    samples = deque([(0.0, 0.25)] * 2000)
    over = threading.Event()

    def take():
        while not over.is_set():
            samples.append((0.0, 0.25))
            samples.popleft()

    thread = threading.Thread(target=take)
    thread.start()
    pace = Pace(10)
    try:
        for turn in range(1, 20_000):
            pace.look(float(turn), 1, 100 * turn, 0, samples)
    finally:
        over.set()
        thread.join()
    assert pace.hold(20_000.0, 1) == pytest.approx(0.25)


def test_scrapes_at_once():
    """Several scrapes at one time, of a pool that is busy, count each sample once."""
    ledger = Ledger()
    account = Account("threads", ledger)
    other = ledger.dealt.join(deque.popleft)
    over = threading.Event()

    def scrape():
        while not over.is_set():
            account.times()

    threads = [threading.Thread(target=scrape) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20_000):
        ledger.samples.append((0.25, 0.5))
    over.set()
    for thread in threads:
        thread.join()
    waits, uses = account.times()
    assert (waits.count, waits.total) == (20_000, 5_000.0)
    assert (uses.count, uses.total) == (20_000, 10_000.0)
    assert len(other.queue) <= 16_384
