"""The supply of one pool: who gets what next."""

from __future__ import annotations

import math
import re

import pytest

from sqla_poolguard._connects import Connect
from sqla_poolguard._ledger import Lease
from sqla_poolguard._overload import Priority
from sqla_poolguard._slots import Slots
from sqla_poolguard._waiters import Waiter


class Record:
    """What fills a slot."""

    def __init__(self):
        self.lease = Lease()


def filled(slots, count, *, idle=True):
    """Fill so many slots."""
    records = []
    for _ in range(count):
        assert slots.reserve()
        record = Record()
        slots.fill(record)
        records.append(record)
        if idle:
            slots.idle.append(record)
    return records


@pytest.mark.parametrize(
    ("size", "overflow", "keep", "limit"),
    [(5, 10, 5, 15), (1, 0, 1, 1), (0, 10, math.inf, math.inf), (5, -1, 5, math.inf), (0, -1, math.inf, math.inf)],
)
def test_limits(size, overflow, keep, limit):
    """`pool_size=0` and `max_overflow=-1` mean no limit, as in SQLAlchemy."""
    slots = Slots(size, overflow)
    assert (slots.keep, slots.limit) == (keep, limit)


def test_reserve_up_to_the_limit():
    """As many slots as the limit says, and no more."""
    slots = Slots(2, 1)
    assert [slots.reserve() is not None for _ in range(5)] == [True, True, True, False, False]
    assert slots.taken == 3
    slots.vacate(None)
    assert slots.reserve()


def test_order_of_idle():
    """First in, first out; with `use_lifo` last in, first out."""
    for lifo, expected in ((False, 0), (True, 1)):
        slots = Slots(2, 0, use_lifo=lifo)
        records = filled(slots, 2)
        assert slots.take() is records[expected]


def test_match_prefers_a_connection_to_a_slot(loop):
    """The first waiter gets the idle connection, the next one the free slot, which is then taken."""
    slots = Slots(2, 0)
    (record,) = filled(slots, 1)
    first, second, third = (Waiter(loop.create_future(), 0.0, math.inf) for _ in range(3))
    for waiter in (first, second, third):
        slots.waiters.append(waiter)
    assert slots.match() == (first, record)
    waiter, given = slots.match()
    assert (waiter, type(given)) == (second, Connect)
    assert slots.taken == 2
    assert slots.match() is None
    assert slots.waiters.live(9) == [third]


def test_match_passes_over_the_dead(loop):
    """Waiters that gave up get nothing, and cost nothing."""
    slots = Slots(1, 0)
    (record,) = filled(slots, 1)
    waiters = [Waiter(loop.create_future(), 0.0, math.inf) for _ in range(3)]
    for waiter in waiters:
        slots.waiters.append(waiter)
    waiters[0].future.cancel()
    waiters[1].future.cancel()
    assert slots.match() == (waiters[2], record)


def test_what_comes_back_goes_to_the_first_that_lives(loop):
    """Without a match, as long as nothing else is idle, and no more is taken than may be; the critical first."""
    slots = Slots(2, 0)
    records = filled(slots, 2)
    slots.idle.clear()
    gone, first, second = (Waiter(loop.create_future(), 0.0, math.inf) for _ in range(3))
    critical = Waiter(loop.create_future(), 0.0, math.inf, level=Priority.CRITICAL)
    for waiter in (gone, first, second, critical):
        slots.waiters.append(waiter)
    gone.future.cancel()
    assert [slots.successor(), slots.successor()] == [critical, first]
    slots.idle.append(records[0])
    assert slots.successor() is None, "there is something idle: a match decides"
    slots.idle.clear()
    slots.resize(1, 0)
    assert slots.successor() is None, "it is one too many, and for nobody"
    slots.resize(2, 0)
    assert slots.successor() is second
    assert slots.successor() is None


def test_match_without_waiters(loop):
    """Nobody waits: nothing is taken."""
    slots = Slots(1, 0)
    (record,) = filled(slots, 1)
    gone = Waiter(loop.create_future(), 0.0, math.inf)
    slots.waiters.append(gone)
    gone.future.cancel()
    assert slots.match() is None
    assert list(slots.idle) == [record]


def test_surplus_is_what_came_last():
    """Connections beyond `size` are surplus, the one that came last first."""
    slots = Slots(1, 2)
    records = filled(slots, 3)
    assert slots.surplus() is records[2]
    assert slots.surplus() is records[1]
    assert slots.surplus() is None


def test_everything_in_a_retired_pool_is_surplus():
    """After `retire` nothing is kept."""
    slots = Slots(2, 0)
    (record,) = filled(slots, 1)
    slots.retire()
    assert slots.surplus() is record
    assert "retired" in repr(slots)


def test_fewer_slots_than_are_taken_are_taken_until_closed():
    """Above the limit idle connections are surplus, nobody gets a slot, and what is allowed falls with what is closed, never to rise."""
    slots = Slots(3, 1)
    records = filled(slots, 4)
    held = slots.take()
    held.lease.granted_at = 1.0
    slots.resize(1, 1)
    assert (slots.limit, slots.most, slots.taken) == (2, 4, 4)
    assert [slots.surplus(), slots.surplus(), slots.surplus()] == [records[3], records[2], None]
    assert slots.leaving == 2
    assert slots.broken_law() is None
    slots.vacate(records[3])
    assert slots.reserve() is None
    assert (slots.most, slots.keep) == (3, 0)
    slots.taken += 1
    assert "taken 4 <= most 3, limit 2" in (slots.broken_law() or "")
    slots.taken -= 1
    slots.vacate(records[2])
    assert (slots.most, slots.keep, slots.leaving) == (2, 1, 0)
    assert slots.reserve() is None
    assert slots.broken_law() is None


def test_what_comes_back_above_the_limit_is_for_nobody(loop):
    """While as many are in use as may be, an idle one too many goes to no waiter; once fewer are, it does."""
    slots = Slots(2, 0)
    first, second = filled(slots, 2, idle=False)
    first.lease.granted_at = second.lease.granted_at = 1.0
    slots.resize(1, 0)
    slots.waiters.append(Waiter(loop.create_future(), 0.0, math.inf))
    first.lease.granted_at = None
    slots.idle.append(first)
    assert slots.match() is None
    assert slots.broken_law() is None
    assert slots.surplus() is first
    second.lease.granted_at = None
    slots.idle.append(second)
    assert "1 waiting" in (slots.broken_law() or "")
    _, given = slots.match()
    assert given is second


def test_more_slots_go_to_who_waits(loop):
    """A waiter gets a slot that came to be."""
    slots = Slots(1, 0)
    filled(slots, 1, idle=False)
    waiter = Waiter(loop.create_future(), 0.0, math.inf)
    slots.waiters.append(waiter)
    slots.resize(1, 1)
    assert slots.match()[0] is waiter
    assert slots.taken == slots.limit == 2


def test_a_retired_pool_keeps_nothing_whatever_its_size():
    """Another size does not bring a retired pool back to life."""
    slots = Slots(1, 0)
    slots.retire()
    slots.resize(3, 0)
    assert slots.keep == 0


def test_giving_back_a_slot_twice_is_a_bug():
    """A record that fills no slot cannot free one."""
    slots = Slots(2, 0)
    (record,) = filled(slots, 1, idle=False)
    slots.vacate(record)
    with pytest.raises(AssertionError, match=r"bug: .* gives back a slot that it does not hold"):
        slots.vacate(record)
    assert slots.taken == 0


def test_freeing_a_filled_slot_anonymously_is_a_bug():
    """There cannot be fewer slots than records."""
    slots = Slots(2, 0)
    filled(slots, 1, idle=False)
    with pytest.raises(AssertionError, match="bug: 1 records in 0 slots"):
        slots.vacate(None)


def test_leases_are_those_that_are_out():
    """Only granted leases are listed."""
    slots = Slots(2, 0)
    _, held = filled(slots, 2, idle=False)
    held.lease.granted_at = 1.0
    assert slots.leases() == [held.lease]


@pytest.mark.parametrize("damage", ["too many taken", "idle but not taken", "asleep beside a connection", "asleep beside a slot"])
def test_check_finds_damage(loop, damage):
    """Each part of the law is checked, and the figures are shown."""
    slots = Slots(1, 0)
    assert slots.broken_law() is None
    if damage == "too many taken":
        slots.taken = 2
    elif damage == "idle but not taken":
        slots.idle.append(Record())
    else:
        slots.waiters.append(Waiter(loop.create_future(), 0.0, math.inf))
        if damage == "asleep beside a connection":
            filled(slots, 1)
    assert re.match(r"law broken: idle \d \+ leased \d \+ busy -?\d == taken \d <= most 1, limit 1", slots.broken_law() or "")


def test_check_accepts_a_busy_slot():
    """A slot in which a connection is being opened is neither idle nor leased, and is fine."""
    slots = Slots(1, 0)
    slots.reserve()
    assert slots.broken_law() is None
    assert repr(slots) == "<Slots 1 of 1 taken: 0 idle, 0 waiting>"


def test_abandoned_slots_begin_anew(loop):
    """In a forked child nobody waits, and the parent's dead waiters do not count."""
    slots = Slots(1, 0)
    assert slots.reserve()
    for _ in range(3):
        waiter = Waiter(loop.create_future(), 0.0, math.inf)
        slots.waiters.append(waiter)
        waiter.future.cancel()
        slots.gave_up(waiter)
    slots.abandon()
    waiters = [Waiter(loop.create_future(), 0.0, math.inf) for _ in range(3)]
    for waiter in waiters:
        slots.waiters.append(waiter)
    assert [waiter.ahead for waiter in waiters] == [0, 1, 2]
