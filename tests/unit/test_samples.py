"""Samples are dealt: to everyone who counts them each one, once; and durations are counted exactly."""

from __future__ import annotations

import random
from collections import deque
from threading import Thread

import pytest

from sqla_poolguard import _samples
from sqla_poolguard._durations import SECONDS_BUCKETS, Durations
from sqla_poolguard._facts import Reason
from sqla_poolguard._finding import LeakKind
from sqla_poolguard._samples import Samples, take
from sqla_poolguard._totals import Totals


def numbered(count):
    """Give so many samples that can be told apart."""
    return [(float(number), 0.0) for number in range(count)]


def test_the_only_one_takes_them_where_they_are():
    """With one share nothing is moved."""
    fresh = deque(numbered(3))
    samples = Samples(fresh)
    share = samples.join(lambda _: None)
    samples.deal()
    assert share.queue is fresh
    assert len(fresh) == 3


def test_each_gets_each_once():
    """A second one has what nobody has taken yet, and everything from then on; so has the first."""
    fresh = deque(numbered(3))
    samples = Samples(fresh)
    first = samples.join(lambda _: None)
    first.queue.popleft()
    second = samples.join(lambda _: None)
    fresh.append((9.0, 9.0))
    samples.deal()
    assert list(first.queue) == list(second.queue) == [(1.0, 0.0), (2.0, 0.0), (9.0, 9.0)]
    third = samples.join(lambda _: None)
    fresh.append((10.0, 10.0))
    samples.deal()
    assert list(third.queue) == [(10.0, 10.0)]
    assert len(first.queue) == 4


def test_nobody_counts():
    """Without a share the oldest samples are forgotten to make room, many at once."""
    fresh = deque(numbered(300))
    Samples(fresh).spill(fresh)
    assert list(fresh) == numbered(300)[256:]


def test_a_checkout_deals_many_at_once():
    """Where several count, one checkout that finds too many deals for the next ones."""
    fresh = deque(numbered(100))
    samples = Samples(fresh)
    shares = [samples.join(lambda _: None) for _ in range(2)]
    samples.deal()
    fresh.extend(numbered(100))
    samples.spill(fresh)
    assert len(fresh) == 100 - 32
    assert len(shares[1].queue) == 100 + 32


def test_a_share_that_nobody_takes_is_bounded(monkeypatch):
    """Each has its own bound: who does not come for his share has it spilled, and the other one loses nothing."""
    monkeypatch.setattr(_samples, "SAMPLES_KEPT", 10)
    fresh = deque()
    samples = Samples(fresh)
    lazy = samples.join(deque.popleft)
    busy = samples.join(deque.popleft)
    seen = []
    for number in range(100):
        fresh.append((float(number), 0.0))
        if number % 3 == 0:
            samples.spill(fresh)
        if number % 5 == 0:
            samples.deal()
            seen += take(busy.queue, 100)
    assert len(lazy.queue) <= 10
    samples.deal()
    assert seen + list(busy.queue) == numbered(100)


def test_a_spill_that_does_nothing_ends(monkeypatch):
    """One who cannot make room just now, since another thread does, holds up nobody."""
    monkeypatch.setattr(_samples, "SAMPLES_KEPT", 2)
    fresh = deque(numbered(8))
    samples = Samples(fresh)
    stuck = samples.join(lambda _: None)
    samples.join(deque.clear)
    samples.deal()
    assert len(stuck.queue) == 8


def test_two_threads_deal(monkeypatch):
    """Whoever deals, and however many do at once, nothing is lost and nothing comes twice."""
    fresh = deque()
    samples = Samples(fresh)
    shares = [samples.join(lambda _: None) for _ in range(2)]
    everything = numbered(20_000)
    over = False

    def deal():
        while not over or fresh:
            samples.deal(7)

    threads = [Thread(target=deal) for _ in range(3)]
    for thread in threads:
        thread.start()
    for sample in everything:
        fresh.append(sample)
    over = True
    for thread in threads:
        thread.join()
    for share in shares:
        assert sorted(share.queue) == everything


def test_take_gives_what_is_there():
    """Where there are fewer than asked for, those there are; from nothing, nothing."""
    queue = deque(numbered(5))
    assert take(queue, 3) == numbered(3)
    assert take(queue, 3) == numbered(5)[3:]
    assert take(queue, 3) == []


@pytest.mark.parametrize("seed", range(5))
def test_many_are_counted_like_one_by_one(seed):
    """Both ways give the same buckets; a boundary belongs to the bucket below it."""
    chance = random.Random(seed)
    seconds = [chance.choice([0.0, *SECONDS_BUCKETS, chance.expovariate(20), chance.uniform(0, 20)]) for _ in range(500)]
    one, many = Durations(), Durations()
    for value in seconds:
        one.add(value)
    many.add_all(seconds[:200])
    many.add_all(seconds[200:])
    many.add_all([])
    assert one.counts == many.counts
    assert one.total == pytest.approx(many.total)
    for index, boundary in enumerate(SECONDS_BUCKETS):
        assert sum(many.counts[: index + 1]) == sum(value <= boundary for value in seconds)
    assert many.count == 500
    assert repr(many) == f"<Durations 500 in {many.total:.6g} s>"


def test_totals_add_up():
    """Those of an engine that is gone and those of the one that took its name make one sum; what is not known stays so."""
    gone, new, both = Totals(), Totals(), Totals()
    for totals in (gone, new):
        totals.rejected[Reason.TIMEOUT] += 2
        totals.leaks[LeakKind.ORPHANED] += 1
        totals.would_reject += 3
        totals.create_times.add(0.25)
    both.absorb(gone)
    assert both.foreign_await is None
    new.foreign_await = 1.5
    both.absorb(new)
    both.absorb(Totals())
    assert both.rejected[Reason.TIMEOUT] == 4
    assert both.leaks[LeakKind.ORPHANED] == 2
    assert both.would_reject == 6
    assert both.foreign_await == 1.5
    assert (both.create_times.count, both.create_times.total) == (2, 0.5)
    assert repr(both) == "<Totals rejected 4, leaks 2, <Durations 2 in 0.5 s>>"
    both.forget()
    assert repr(both) == "<Totals rejected 0, leaks 0, <Durations 0 in 0 s>>"
