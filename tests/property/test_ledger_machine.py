"""A state machine over ledger, slots and waiters: any order of events keeps the laws, and a simple model agrees."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule

from sqla_poolguard._connects import Connect
from sqla_poolguard._facts import Ending, Reason
from sqla_poolguard._ledger import Lease, Ledger
from sqla_poolguard._slots import Slots
from sqla_poolguard._waiters import Waiter

EXPIRED = object()


class Record:
    """What fills a slot."""

    def __init__(self):
        self.lease = Lease()


class NumberedWaiter(Waiter):
    """A waiter that knows how many came before it."""

    number = 0


class PoolMachine(RuleBasedStateMachine):
    """Plays the shell: takes, waits, delivers, cancels, gives back; the model is a list of who waits and a count of slots."""

    leased = Bundle("leased")
    """Records in somebody's hands."""
    slots_in_hand = Bundle("slots_in_hand")
    """Reserved slots in which somebody is opening a connection; the time it was asked for."""
    served = Bundle("served")
    """Waiters that were handed something and have not run since."""

    @initialize(size=st.integers(1, 4), overflow=st.integers(0, 3), lifo=st.booleans())
    def start(self, size, overflow, lifo):
        """Make an empty pool of any size."""
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.ledger = Ledger()
        self.slots = Slots(size, overflow, use_lifo=lifo)
        self.ledger.open_pool(self.slots)
        self.limit = size + overflow
        self.queue = []  # the model: who waits, in order
        self.arrivals = 0
        self.last_served = -1
        self.busy = 0  # the model: slots in which something is being opened, or that were handed over
        self.closing = []  # the model: connections that are one too many, and are being closed
        self.taken = 0

    def teardown(self):
        """Close the loop that made the futures."""
        if hasattr(self, "loop"):
            self.loop.close()

    def pass_time(self):
        """Let a moment pass."""
        self.now += 0.25

    def hand_out(self):
        """Pair as the shell does, and compare with the model; give the waiters that were served."""
        out = []
        while (pair := self.slots.match()) is not None:
            waiter, given = pair
            assert waiter is self.queue.pop(0), "not the one that came first"
            assert waiter.number > self.last_served, "overtaken"
            self.last_served = waiter.number
            waiter.future.set_result(given)
            self.busy += 1
            out.append(waiter)
        if self.slots.is_shrinking:
            self.close_surplus()
        return multiple(*out)

    def close_surplus(self):
        """Begin to close what is one too many; nothing is that somebody could have."""
        while (record := self.slots.surplus()) is not None:
            assert not self.queue or self.slots.is_shrinking, "closed while one waits"
            self.closing.append(record)

    def grant(self, record, asked_at):
        """Write the grant into the books."""
        self.ledger.grant(record.lease, self.now, self.now - asked_at)
        return record

    @rule(target=leased)
    def checkout_from_idle(self):
        """Take what is idle, if anything is."""
        self.pass_time()
        try:
            record = self.slots.take()
        except IndexError:
            return multiple()
        assert not self.queue, "served before somebody who waited"
        self.ledger.ask()
        return self.grant(record, self.now)

    @precondition(lambda self: not self.slots.idle)
    @rule(target=slots_in_hand)
    def checkout_into_a_free_slot(self):
        """Reserve a slot to open a connection in."""
        self.pass_time()
        taken = self.slots.taken
        if not self.slots.reserve():
            assert taken >= self.limit, "a slot is free, and was not given"
            return multiple()
        self.ledger.ask()
        self.busy += 1
        return (None, self.now)

    @precondition(lambda self: not self.slots.idle and self.slots.taken >= self.limit)  # as the shell, which looks first
    @rule(patience=st.sampled_from([2.0, float("inf")]))
    def checkout_waits(self, patience):
        """Queue; deadlines do not decrease along the queue, as in a pool with one timeout."""
        self.pass_time()
        self.ledger.ask()
        if self.queue and self.queue[-1].deadline == float("inf"):
            patience = float("inf")
        waiter = NumberedWaiter(self.loop.create_future(), self.now, self.now + patience)
        waiter.number, self.arrivals = self.arrivals, self.arrivals + 1
        self.slots.waiters.append(waiter)
        self.queue.append(waiter)
        assert self.slots.match() is None

    @rule(target=leased, hand=consumes(slots_in_hand))
    def connect_succeeds(self, hand):
        """Fill the slot and hold the connection."""
        self.pass_time()
        record = Record()
        self.slots.fill(record)
        self.busy -= 1
        return self.grant(record, hand[1])

    @rule(target=served, hand=consumes(slots_in_hand), reason=st.sampled_from([Reason.CONNECT_FAILED, Reason.CANCELLED]))
    def connect_fails(self, hand, reason):
        """The slot is free again, and goes to the next."""
        self.pass_time()
        self.slots.vacate(None)
        self.busy -= 1
        self.ledger.reject(reason)
        return self.hand_out()

    @rule(target=leased, waiter=consumes(served))
    def served_waiter_resumes(self, waiter):
        """Use what was handed over."""
        self.pass_time()
        record = waiter.future.result()
        if isinstance(record, Connect):
            record = Record()
            self.slots.fill(record)
        self.busy -= 1
        return self.grant(record, waiter.since)

    @rule(target=served, waiter=consumes(served))
    def served_waiter_is_cancelled(self, waiter):
        """What was handed over is handed on."""
        self.pass_time()
        given = waiter.future.result()
        self.busy -= 1
        self.ledger.reject(Reason.CANCELLED)
        if isinstance(given, Connect):
            self.slots.give_back(given)
        else:
            self.slots.idle.append(given)
        return self.hand_out()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def waiter_is_cancelled(self, data):
        """Leave the queue from anywhere in it."""
        waiter = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        waiter.future.cancel()
        self.slots.gave_up(waiter)
        self.ledger.reject(Reason.CANCELLED)

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def deadlines_pass(self, seconds):
        """Turn away exactly those whose time is up, the oldest first."""
        self.now += seconds
        due = [waiter for waiter in self.queue if waiter.deadline <= self.now]
        assert self.slots.waiters.expired(self.now) == due
        for waiter in due:
            self.queue.remove(waiter)
            waiter.future.set_result(EXPIRED)
            self.ledger.reject(Reason.TIMEOUT)
        expected = self.queue[0].deadline if self.queue else float("inf")
        assert self.slots.waiters.next_deadline() == expected

    @rule(target=served, record=consumes(leased), invalid=st.booleans())
    def checkin(self, record, invalid):
        """Give back; an unfit connection is idle all the same, and connected anew by whoever takes it."""
        self.pass_time()
        self.ledger.end(record.lease, self.now, Ending.INVALIDATED if invalid else Ending.CHECKED_IN)
        assert self.ledger.samples[-1][1] > 0
        self.slots.idle.append(record)
        return self.hand_out()

    @rule(target=served, record=consumes(leased), ending=st.sampled_from([Ending.DETACHED, Ending.LEAKED, Ending.INVALIDATED]))
    def connection_is_gone(self, record, ending):
        """The lease ends and its slot is free, for the next waiter to open in."""
        self.pass_time()
        self.ledger.end(record.lease, self.now, ending)
        self.slots.vacate(record)
        return self.hand_out()

    @rule()
    def surplus_is_closed(self):
        """Close what is one too many; nothing is, while one waits."""
        self.close_surplus()
        assert len(self.slots.idle) <= self.slots.keep or self.slots.is_shrinking

    @precondition(lambda self: self.closing)
    @rule(target=served, data=st.data())
    def closing_ends(self, data):
        """The slot of a connection that is closed is free, if there are not fewer now."""
        self.slots.vacate(self.closing.pop(data.draw(st.integers(0, len(self.closing) - 1))))
        return self.hand_out()

    @rule(target=served, size=st.integers(0, 4), overflow=st.integers(-1, 3))
    def resize(self, size, overflow):
        """Allow more, or fewer, at any moment."""
        self.slots.resize(size, overflow)
        self.limit = float("inf") if size == 0 or overflow < 0 else size + overflow
        return self.hand_out()

    @rule()
    def retire(self):
        """From now on everything idle is surplus."""
        self.slots.retire()

    @invariant()
    def laws_hold(self):
        """Both laws of the books and the law of the slots."""
        if hasattr(self, "ledger"):
            self.ledger.check()
            assert self.ledger.waiting >= 0

    @invariant()
    def model_agrees(self):
        """The queue is the model's, no slot is lost, nobody sleeps beside a free connection or slot."""
        if not hasattr(self, "ledger"):
            return
        slots = self.slots
        assert slots.waiters.live(1000) == self.queue
        assert len(slots.waiters) == len(self.queue)
        assert slots.taken == len(slots.idle) + len(slots.leases()) + self.busy + len(self.closing)
        assert slots.taken <= max(self.limit, self.taken), "more, although there were as many as may be"
        self.taken = slots.taken
        assert not (self.queue and (slots.idle or slots.taken < self.limit))
        assert slots.leaving == len(self.closing)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False
)
