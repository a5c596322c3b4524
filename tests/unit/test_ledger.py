"""The books: totals, laws, and misuse that is a bug."""

from __future__ import annotations

import pytest

from sqla_poolguard._facts import Ending, Reason
from sqla_poolguard._finding import FindingKind
from sqla_poolguard._ledger import SAMPLES_KEPT, Lease, Ledger
from sqla_poolguard._slots import Slots


class Record:
    """What fills a slot."""

    def __init__(self):
        self.lease = Lease()


@pytest.fixture
def books():
    """Give books, slots that they know, and a record in one of them."""
    ledger, slots, record = Ledger(), Slots(2, 1), Record()
    ledger.open_pool(slots)
    slots.reserve()
    slots.fill(record)
    return ledger, slots, record


def test_life_of_a_lease(books):
    """Asked, granted after a wait, ended: each total moves once, and the sample holds both times."""
    ledger, _, record = books
    ledger.ask()
    assert (ledger.requested, ledger.waiting, ledger.granted) == (1, 1, 0)
    ledger.check()
    ledger.grant(record.lease, 10.0, 2.5)
    assert (ledger.requested, ledger.waiting, ledger.granted) == (1, 0, 1)
    assert ledger.leases() == [record.lease]
    ledger.check()
    ledger.end(record.lease, 14.0, Ending.CHECKED_IN)
    assert ledger.ended[Ending.CHECKED_IN] == 1
    assert list(ledger.samples) == [(2.5, 4.0)]
    assert ledger.leases() == []
    ledger.check()


def test_lease_is_clean_for_its_next_holder(books):
    """Nothing of one checkout is left on the lease when the next one gets it: ending, overdue, holder."""
    ledger, _, record = books
    lease = record.lease
    lease.ending = Ending.INVALIDATED  # a ping failed before the lease began
    ledger.ask()
    ledger.grant(lease, 1.0, 0.5)
    assert lease.ending is None
    lease.note(FindingKind.OVERDUE, is_news=True)
    lease.place = ()
    ledger.end(lease, 2.0, Ending.CHECKED_IN)
    ledger.ask()
    ledger.grant(lease, 3.0, 0.0)
    assert (lease.ending, lease.reported, lease.waited) == (None, (), 0.0)


def test_rejection(books):
    """A rejection takes the request from those that wait."""
    ledger, _, _ = books
    for reason in Reason:
        ledger.ask()
        ledger.reject(reason)
        ledger.check()
    assert ledger.waiting == 0
    assert ledger.rejected == dict.fromkeys(Reason, 1)


def test_granting_twice_is_a_bug(books):
    """A lease that somebody holds cannot be granted."""
    ledger, _, record = books
    ledger.ask()
    ledger.ask()
    ledger.grant(record.lease, 1.0, 0.0)
    with pytest.raises(AssertionError, match="bug: granted a lease that somebody holds"):
        ledger.grant(record.lease, 1.0, 0.0)


def test_ending_twice_is_a_bug(books):
    """A lease that nobody holds cannot end."""
    ledger, _, record = books
    with pytest.raises(AssertionError, match="bug: ended a lease that nobody holds"):
        ledger.end(record.lease, 1.0, Ending.CHECKED_IN)


def test_check_finds_a_request_that_went_missing(books):
    """The first law is checked, and its figures shown."""
    ledger, _, _ = books
    ledger.requested += 1
    with pytest.raises(AssertionError, match=r"law broken: requested 1 == waiting 0 \+ granted 0 \+ rejected 0"):
        ledger.check()


def test_check_finds_a_lease_that_went_missing(books):
    """The second law is checked, and its figures shown."""
    ledger, _, record = books
    ledger.ask()
    ledger.grant(record.lease, 1.0, 0.0)
    record.lease.granted_at = None
    with pytest.raises(AssertionError, match=r"law broken: granted 1 == leased 0 \+ ended 0"):
        ledger.check()


def test_check_finds_a_negative_count(books):
    """Fewer than nobody cannot wait, even where the sums come out right."""
    ledger, _, _ = books
    ledger.reject(Reason.TIMEOUT)
    with pytest.raises(AssertionError, match="law broken"):
        ledger.check()


def test_leases_of_all_generations_the_oldest_first(books):
    """Leases of every pool that lives are seen, in the order in which they were granted."""
    ledger, _, record = books
    newer = Slots(1, 0)
    ledger.open_pool(newer)
    other = Record()
    newer.reserve()
    newer.fill(other)
    ledger.ask()
    ledger.grant(other.lease, 5.0, 0.0)
    ledger.ask()
    ledger.grant(record.lease, 7.0, 0.0)
    assert ledger.leases() == [other.lease, record.lease]
    ledger.check()


def test_samples_are_capped(books):
    """Without an exporter the oldest sample makes room, at the next checkout."""
    ledger, _, record = books
    for number in range(SAMPLES_KEPT + 30):
        ledger.ask()
        ledger.grant(record.lease, 0.0, float(number))
        assert len(ledger.samples) <= SAMPLES_KEPT
        ledger.end(record.lease, 1.0, Ending.CHECKED_IN)
    assert ledger.samples[-1] == (SAMPLES_KEPT + 29.0, 1.0)
    assert ledger.samples[0] == (29.0, 1.0)


def test_spilled_samples_can_be_taken(books):
    """An exporter can take what would spill over."""
    ledger, _, record = books
    spilled = []
    ledger.spill = lambda samples: spilled.append(samples.popleft())
    ledger.samples.extend([(9.0, 9.0)] * (SAMPLES_KEPT + 1))
    ledger.ask()
    ledger.grant(record.lease, 0.0, 0.0)
    assert spilled == [(9.0, 9.0)]


def test_repr_shows_the_totals(books):
    """`repr` reads as the law."""
    ledger, _, _ = books
    ledger.ask()
    ledger.reject(Reason.TIMEOUT)
    assert repr(ledger) == "<Ledger requested 1 = waiting 0 + granted 0 + rejected 1; ended 0>"


@pytest.mark.parametrize("waited", [True, False])
def test_laws_hold_while_a_sample_is_spilled(books, waited):
    """What takes a sample is an exporter's code: when it looks, or raises what is no Exception, the books are in order."""
    ledger, _, record = books
    ledger.samples.extend([(0.0, 0.0)] * (SAMPLES_KEPT + 1))
    looked = []

    def spill(samples):
        samples.clear()
        ledger.check()
        looked.append(True)
        raise KeyboardInterrupt

    ledger.spill = spill
    if waited:
        ledger.ask()
    with pytest.raises(KeyboardInterrupt):
        ledger.grant(record.lease, 1.0, 0.5) if waited else ledger.grant_at_once(record.lease, 1.0)
    assert looked
    ledger.check()
    assert ledger.waiting == 0
