"""The queue: order, deadlines, and the dead in it."""

from __future__ import annotations

import math

import pytest

from sqla_poolguard._waiters import Waiter, Waiters


@pytest.fixture
def join(loop):
    """Give a function that lets a waiter join a queue."""

    def join(waiters, deadline=math.inf):
        waiter = Waiter(loop.create_future(), 0.0, deadline)
        waiters.append(waiter)
        return waiter

    return join


def leave(waiters, waiter):
    """Give up waiting."""
    waiter.future.cancel()
    waiters.gave_up(waiter)


def test_first_come_first_served(join):
    """Waiters come out as they went in."""
    waiters = Waiters()
    all_of_them = [join(waiters) for _ in range(5)]
    assert [waiters.pop() for _ in range(5)] == all_of_them
    assert waiters.pop() is None


def test_ahead_is_how_many_waited(join):
    """Each waiter knows how many stood before it when it came."""
    waiters = Waiters()
    assert [join(waiters).ahead for _ in range(4)] == [0, 1, 2, 3]


def test_ahead_does_not_count_those_who_left(join):
    """A waiter that gave up is not ahead of anybody."""
    waiters = Waiters()
    first, _ = join(waiters), join(waiters)
    leave(waiters, first)
    assert join(waiters).ahead == 1


def test_put_back_goes_to_the_front(join):
    """A waiter that was popped in vain does not lose its turn."""
    waiters = Waiters()
    first, second = join(waiters), join(waiters)
    waiters.put_back(waiters.pop())
    assert [waiters.pop(), waiters.pop()] == [first, second]


def test_length_counts_the_living(join):
    """`len` is how many really wait."""
    waiters = Waiters()
    first, _ = join(waiters), join(waiters)
    assert len(waiters) == 2
    leave(waiters, first)
    assert len(waiters) == 1
    assert repr(waiters) == "<Waiters 1 live, 2 queued>"


def test_expired_takes_out_those_whose_time_is_up(join):
    """Those due at or before the moment, the oldest first, and nobody else."""
    waiters = Waiters()
    due = [join(waiters, deadline) for deadline in (1.0, 2.0, 2.0)]
    later = join(waiters, 2.5)
    assert waiters.expired(2.0) == due
    assert waiters.next_deadline() == 2.5
    assert waiters.pop() is later


def test_expired_skips_the_dead(join):
    """Who gave up is not told again."""
    waiters = Waiters()
    gone, due = join(waiters, 1.0), join(waiters, 1.0)
    leave(waiters, gone)
    assert waiters.expired(1.0) == [due]


def test_waiter_that_another_has_just_taken(join, monkeypatch):
    """Who is popped, by another thread or the collector, between being seen and being taken out is nobody's to take out."""
    waiters = Waiters()
    due = [join(waiters, 1.0) for _ in range(3)]
    remove = Waiters.remove

    def interrupted(waiters, waiter):
        if waiter is due[1]:
            assert waiters.pop() is waiter
            waiter.future.set_result(None)
        return remove(waiters, waiter)

    monkeypatch.setattr(Waiters, "remove", interrupted)
    assert waiters.expired(1.0) == [due[0], due[2]]
    assert waiters.next_deadline() == math.inf


def test_next_deadline_of_nobody():
    """No waiter, no deadline."""
    assert Waiters().next_deadline() == math.inf


def test_live_is_bounded(join):
    """A long queue is looked at only so far."""
    waiters = Waiters()
    everybody = [join(waiters) for _ in range(10)]
    assert waiters.live(3) == everybody[:3]
    assert waiters.live(99) == everybody


def test_the_dead_are_swept_out(join):
    """A queue that is mostly dead is cleaned, without changing the order of the living."""
    waiters = Waiters()
    everybody = [join(waiters) for _ in range(100)]
    living = everybody[::10]
    for waiter in everybody:
        if waiter not in living:
            leave(waiters, waiter)
    assert len(waiters.queued) < 60
    assert waiters.live(100) == living
