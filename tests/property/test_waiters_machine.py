"""A state machine over the three lines of waiters, each with a deadline of its own: a plain list agrees with it at every step."""

from __future__ import annotations

import asyncio
import math

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sqla_poolguard._overload import Priority
from sqla_poolguard._waiters import Waiter, Waiters

LEVELS = st.sampled_from(list(Priority))


class WaitersMachine(RuleBasedStateMachine):
    """The model is a list of the living, in the order in which they came; those that were popped in vain stand before."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.waiters = Waiters()
        self.model = []
        self.now = 0.0

    def teardown(self):
        """Close the loop that made the futures."""
        self.loop.close()

    def in_order(self):
        """Give the living in the order in which they are to be served."""
        return sorted(self.model, key=lambda waiter: waiter.level)  # stable

    @rule(level=LEVELS, patience=st.sampled_from([0.0, 0.5, 1.0, 3.0, math.inf]), passed=st.sampled_from([0.0, 0.25]))
    def come(self, level, patience, passed):
        """Join, with any patience."""
        self.now += passed
        waiter = Waiter(self.loop.create_future(), self.now, self.now + patience, level=level)
        self.waiters.append(waiter)
        self.model.append(waiter)

    @rule(level=LEVELS)
    def crowd_comes(self, level):
        """Enough to make the sweep of the dead worth while."""
        for _ in range(40):
            self.come(level, 1.0, 0.0)

    @rule()
    def pop(self):
        """The first of the most important line is served."""
        waiter = self.waiters.pop()
        assert waiter is (self.in_order() or [None])[0]
        if waiter is not None:
            self.model.remove(waiter)
            waiter.future.set_result(None)

    @precondition(lambda self: self.model)
    @rule()
    def pop_in_vain(self):
        """Who is put back stands first in its line again."""
        waiter = self.waiters.pop()
        self.waiters.put_back(waiter)
        self.model.remove(waiter)
        self.model.insert(0, waiter)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def give_up(self, data):
        """Leave from anywhere."""
        waiter = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        waiter.future.cancel()
        self.waiters.gave_up(waiter)

    @precondition(lambda self: len(self.model) > 3)
    @rule()
    def most_give_up(self):
        """Leave nearly all at once, so that the dead are swept out."""
        for waiter in self.model[:-1]:
            waiter.future.cancel()
            self.waiters.gave_up(waiter)
        del self.model[:-1]

    @rule(least=LEVELS)
    def evict(self, least):
        """The oldest of the least important goes first, and nobody more important than the newcomer."""
        waiter = self.waiters.oldest(least)
        candidates = [one for one in self.model if one.level >= least]
        worst = max((one.level for one in candidates), default=None)
        assert waiter is next((one for one in candidates if one.level is worst), None)
        if waiter is not None:
            assert self.waiters.remove(waiter)
            self.model.remove(waiter)
            waiter.future.set_result(None)
            assert not self.waiters.remove(waiter)

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0]))
    def expire(self, seconds):
        """Exactly those that are due are taken out."""
        self.now += seconds
        due = {waiter for waiter in self.model if waiter.deadline <= self.now}
        expired = self.waiters.expired(self.now)
        assert len(expired) == len(due)
        assert set(expired) == due
        for waiter in expired:
            self.model.remove(waiter)
            waiter.future.set_result(None)

    @invariant()
    def model_agrees(self):
        """Order, number, deadline; a token for each in a line; no more dead than are known."""
        waiters = self.waiters
        assert waiters.live(10_000) == self.in_order()
        assert len(waiters) == len(self.model) == waiters.about
        assert len(waiters.queued) == sum(map(len, waiters.lines))
        assert all(waiter.queued for waiter in self.model)
        assert waiters.ahead_of(Priority.NORMAL) == len(self.model)
        assert waiters.next_deadline() == min((waiter.deadline for waiter in self.model), default=math.inf)


TestWaitersMachine = WaitersMachine.TestCase
TestWaitersMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
