"""A state machine over the breaker: in any order of events it keeps its laws, and a simple model agrees."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from sqla_poolguard._breaker import Breaker
from sqla_poolguard._connects import BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState


class BreakerMachine(RuleBasedStateMachine):
    """Plays the shell and the database; the model is which connects were begun since it last closed, and whether it is open."""

    connects = Bundle("connects")
    """What was begun and has not ended, from before an outage too."""

    @initialize(most=st.integers(1, 5), patience=st.floats(0.01, 2.0))
    def start(self, most, patience):
        """Make a closed one, with a jitter that the rules choose."""
        self.now = 1000.0
        self.jitter = 0.0
        self.most, self.patience = most, patience
        self.breaker = Breaker(patience, most, lambda: self.jitter)
        self.counted = {}  # the model: connect to when it was begun, since it last closed
        self.probe = None
        self.open = False
        self.fails = 0
        self.steps = 0
        self.limit = most
        self.known = False

    def opened(self, connect):
        """The model of a failure."""
        if connect not in self.counted:
            return
        del self.counted[connect]
        self.fails += 1
        if not self.open or connect is self.probe:
            self.steps += 1
            self.armed()
        self.open = True
        assert self.breaker.fails == self.fails

    def armed(self):
        """The pause that was drawn just now."""
        self.probe = None
        pause = min(2.0, 0.1 * 2 ** (self.steps - 1)) * self.jitter
        assert math.isclose(self.breaker.probe_at, self.now + pause)
        assert self.breaker.state is OPEN

    def long(self):
        """After how many seconds a connect takes too long."""
        return max(3 * self.breaker.usual, self.patience * (1 if self.known else 3))

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.05, 0.3, 2.0, 31.0]), jitter=st.sampled_from([0.0, 0.5, 0.999]))
    def pass_time(self, seconds, jitter):
        """Let time pass: whatever is hopeless stays so, and the estimates are sane."""
        before = self.breaker.hopeless(self.now, live=False)
        self.now += seconds
        self.jitter = jitter
        assert self.breaker.hopeless(self.now, live=False) >= before
        assert not self.breaker.hopeless(self.now, live=True)
        assert 0.0 < self.breaker.eta(self.now) < math.inf
        assert 0.0 < self.breaker.probe_timeout(self.now, 60.0) <= 60.0
        assert self.breaker.probe_timeout(self.now, 0.5) == 0.5
        assert self.breaker.cause(self.now) is not None

    @rule()
    def want(self):
        """Somebody comes: then a probe is under way, or its timer is set."""
        self.breaker.wanted(self.now)
        assert not self.open or self.probe is not None or self.breaker.wake_at == self.breaker.probe_at

    @rule(target=connects, times=st.integers(1, 6))
    def begin(self, times):
        """Requests connect, if they may: while closed, and not more than the limit."""
        begun = []
        for _ in range(times):
            connect = self.breaker.begin(self.now)
            assert (connect is not None) == (not self.open and len(self.counted) < self.limit)
            if connect is not None:
                self.counted[connect] = self.now
                begun.append(connect)
        return multiple(*begun)

    @rule(target=connects, wake=st.booleans())
    def begin_probe(self, wake):
        """The shell probes, if that is due: one at a time. Where the timer is set, it may wait for it."""
        if wake and self.breaker.wake_at < math.inf:
            self.now = max(self.now, self.breaker.wake_at)
        due = self.open and self.probe is None and self.now >= self.breaker.probe_at
        probe = self.breaker.begin_probe(self.now)
        assert (probe is not None) == due
        if probe is None:
            return multiple()
        self.counted[probe] = self.now
        self.probe = probe
        return probe

    @rule(connect=consumes(connects), outcome=st.sampled_from(["fail", "fail", "succeed", "abandon"]))
    def end(self, connect, outcome):
        """A connect ends, in any order."""
        getattr(self, outcome)(connect)

    def succeed(self, connect):
        """Whatever succeeds closes it."""
        self.breaker.succeeded(connect, self.now)
        self.known = True
        if self.open:
            self.counted.clear()
            self.probe, self.open, self.fails, self.steps, self.limit = None, False, 0, 0, 1
        else:
            self.counted.pop(connect, None)
            self.limit = min(self.most, self.limit + 1)
        assert self.breaker.state is CLOSED
        assert not self.breaker.hopeless(self.now, live=False) or self.counted

    def fail(self, connect):
        """What fails opens it, if it is news; one that failed late does not touch the probe."""
        late, probe_at = self.open and connect is not self.probe, self.breaker.probe_at
        self.breaker.failed(connect, self.now, ConnectionRefusedError())
        self.opened(connect)
        assert not late or self.breaker.probe_at == probe_at

    def abandon(self, connect):
        """What is cancelled changes nothing, unless it had hung."""
        hung = connect in self.counted and self.now - self.counted[connect] > self.long()
        self.breaker.abandoned(connect, self.now)
        if connect is self.probe:
            del self.counted[connect]
            self.armed()
        elif hung:
            self.opened(connect)
        else:
            self.counted.pop(connect, None)

    @rule(connect=connects)
    def end_twice(self, connect):
        """What has ended already, or is unknown, changes nothing."""
        if connect in self.counted:
            return
        state = self.breaker.state
        self.breaker.failed(connect, self.now, OSError())
        self.breaker.abandoned(connect, self.now)
        assert self.breaker.state is state

    @invariant()
    def laws(self):
        """Its own, and those of the model."""
        if not hasattr(self, "breaker"):
            return
        breaker = self.breaker
        breaker.check()
        assert breaker.state is (CLOSED if not self.open else OPEN if self.probe is None else HALF_OPEN)
        assert breaker.under_way == len(self.counted)
        assert breaker.limit == (self.limit if not self.open else self.probe is not None)
        if self.open:
            assert breaker.down_since <= self.now
            assert breaker.hopeless(self.now + self.patience + 0.1, live=False)
            assert breaker.downtime(self.now).error_age >= 0


BreakerMachine.TestCase.settings = settings(stateful_step_count=60, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
