"""Properties of the retry line and of the waiters' housekeeping."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from sqla_poolguard._retry import RetryLine
from sqla_poolguard._waiters import Waiter, Waiters

refusals = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1000), st.floats(0, 3)), min_size=1, max_size=60)


@given(refusals)
def test_retry_times_are_bounded_and_never_before_an_earlier_place(steps):
    """A place in the line is between now and 30 s from now, and never before one that was given out earlier."""
    line, now, last = RetryLine(), 1000.0, 0.0
    for pause, waiting, gap in steps:
        now += pause
        after = line.next_turn(now, waiting, gap)
        assert 0 <= after <= 30 + 1e-6
        assert now + after >= min(last, now + 30) - 1e-6
        last = now + after


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["join", "join", "leave", "serve"]), max_size=200))
def test_dead_waiters_are_swept_out(steps):
    """However waiters come and go, the order of the living is kept and the dead never outnumber them for long."""
    loop = asyncio.new_event_loop()
    try:
        waiters, living = Waiters(), []
        for number, step in enumerate(steps):
            if step == "join":
                waiter = Waiter(loop.create_future(), number, float("inf"))
                waiters.append(waiter)
                living.append(waiter)
            elif living and step == "leave":
                gone = living.pop(number % len(living))
                gone.future.cancel()
                waiters.gave_up(gone)
            elif living:
                assert waiters.pop() is living.pop(0)
            assert waiters.live(1000) == living
            assert len(waiters.queued) <= 2 * len(living) + 34
    finally:
        loop.close()
