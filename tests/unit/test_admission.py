"""Who may wait: exact figures of the pace and of the budgets."""

from __future__ import annotations

import math

import pytest

from sqla_poolguard._admission import Admission, Pace
from sqla_poolguard._overload import Priority


def seen(*holds):
    """Give samples of leases that ended, which did not wait."""
    return [(0.0, hold) for hold in holds]


def known(hold=0.05, busy=10, max_wait=1.0, now=100.0, waiting=0):
    """Give an admission that has seen sixty-four leases of one length."""
    admission = Admission(max_wait, busy)
    admission.is_fresh(now, 0)
    admission.look(now, busy, busy, 64, waiting, seen(*[hold] * 64))
    return admission


def test_nothing_known_is_no_reason_to_refuse():
    """Before anything has ended the gap is nought, and everybody may wait."""
    admission = Admission(1.0, 10)
    admission.look(5.0, 10, 10, 10, 0, [])
    assert admission.pace.gap(5.0, 10, 10) == 0.0
    assert admission.fits(5.0, 1000, Priority.NORMAL)


def test_mean_of_what_ended():
    """Where nobody waited, the mean hold is that of the samples; it is told when enough have ended."""
    pace = Pace(10)
    pace.look(1.0, 3, 15, 0, seen(*[0.25] * 15))
    assert pace.mean == 0.0
    pace.look(2.0, 3, 20, 0, seen(*[0.25] * 20))
    assert pace.mean == pytest.approx(0.25)
    assert pace.hold(2.0, 3) == pytest.approx(0.25)
    assert pace.gap(2.0, 10, 10) == pytest.approx(0.025)


def test_only_the_latest_samples_are_read():
    """What an exporter took, and what was read before, is not read again."""
    pace = Pace(10)
    pace.look(1.0, 10, 100, 0, seen(*[9.0] * 36, *[0.5] * 64))
    assert pace.mean == pytest.approx(0.5)
    pace.look(2.0, 10, 100, 0, seen(*[9.0] * 100))
    assert pace.mean == pytest.approx(0.5)
    pace.look(3.0, 10, 200, 0, [])
    assert pace.mean == pytest.approx(0.5)


def test_while_some_wait_connection_seconds_are_counted():
    """Ten connections that give two grants in a second are held for five seconds each, whatever was sampled."""
    pace = Pace(10)
    pace.look(0.0, 10, 0, 1, [])
    for second in range(1, 201):
        pace.look(float(second), 10, 2 * second, 1, seen(0.01, 0.01))
    assert pace.hold(200.0, 10) == pytest.approx(5.0, rel=0.06)
    assert pace.gap(200.0, 10, 10) == pytest.approx(0.5, rel=0.06)


def test_a_hang_shows_before_anything_ends():
    """While all connections hang, the estimate grows with the time that passes."""
    admission = known()
    now, gaps = 100.0, []
    admission.look(now, 10, 10, 64, 1, [])
    for _ in range(4):
        now += 1.0
        gaps.append(admission.pace.gap(now, 10, 10))
    assert gaps == sorted(gaps)
    assert gaps[-1] > 10 * gaps[0] / 4 > 0.005
    assert not admission.fits(now, 200, Priority.NORMAL)


def test_past_fades():
    """After some hundred leases of another length the first ones count for nothing."""
    pace = Pace(10)
    pace.look(0.0, 10, 64, 0, seen(*[1.0] * 64))
    for number in range(2, 12):
        pace.look(float(number), 10, 64 * number, 0, seen(*[0.1] * 64))
    assert pace.mean == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("limit", [1, 10, 1000, math.inf])
def test_any_limit(limit):
    """One connection or any number: the mean of equal holds is that hold."""
    pace = Pace(limit)
    for number in range(1, 40):
        pace.look(float(number), 1, 64 * number, 0, seen(*[0.2] * 64))
    assert pace.mean == pytest.approx(0.2)


def test_clock_that_goes_back():
    """Time that runs backwards, between two clocks, makes no negative hold."""
    pace = Pace(10)
    pace.look(10.0, 10, 0, 1, [])
    pace.look(5.0, 10, 1, 1, [])
    assert pace.hold(4.0, 10) == 0.0


def test_burst_may_wait_up_to_max_wait():
    """Little's law: with a gap of 5 ms, the two hundredth waits a second, and the next one longer."""
    admission = known()
    assert admission.fits(100.0, 198, Priority.NORMAL)
    assert not admission.fits(100.0, 200, Priority.NORMAL)
    assert admission.predicted == pytest.approx(1.005)


def test_standing_queue_may_wait_an_eighth():
    """Once the queue was never empty for twice `max_wait`, only 25 fit; critical ones keep the whole."""
    admission = known()
    assert admission.budget(102.0, Priority.NORMAL) == 1.0
    assert admission.budget(102.001, Priority.NORMAL) == 0.125
    assert admission.budget(102.001, Priority.CRITICAL) == 1.0
    assert admission.budget(102.001, Priority.SHEDDABLE) == 0.0
    assert admission.fits(102.001, 23, Priority.NORMAL)
    assert not admission.fits(102.001, 25, Priority.NORMAL)
    assert admission.fits(102.001, 25, Priority.CRITICAL)
    assert not admission.fits(102.001, 0, Priority.SHEDDABLE)


def test_empty_queue_ends_the_standing():
    """A queue that was empty once is a burst again."""
    admission = known()
    assert admission.budget(110.0, Priority.NORMAL) == 0.125
    admission.is_fresh(110.0, 0)
    assert admission.budget(110.0, Priority.NORMAL) == 1.0


def test_sheddable_waits_little_even_in_a_burst():
    """An eighth of the budget is all that the least important get."""
    admission = known()
    assert admission.budget(100.0, Priority.SHEDDABLE) == 0.125
    assert admission.fits(100.0, 23, Priority.SHEDDABLE)
    assert not admission.fits(100.0, 25, Priority.SHEDDABLE)


def test_look_is_good_for_a_sixty_fourth_of_max_wait():
    """So long, one look serves everybody."""
    admission = known(now=100.0)
    assert admission.is_fresh(100.015, 3)
    assert not admission.is_fresh(100.016, 3)
    assert not Admission(1.0, 10).is_fresh(0.0, 0)


def test_calm_as_long_as_the_last_look_makes_the_wait_short():
    """While that is fresh, 24 more fit into an eighth of the budget; an empty queue is to be looked at, for it ends the standing."""
    admission = known(now=100.0)
    assert admission.is_calm(100.015, 1)
    assert admission.is_calm(100.015, 23)
    assert not admission.is_calm(100.015, 25)
    assert not admission.is_calm(100.016, 1)
    assert not admission.is_calm(100.015, 0)


def test_prediction_is_poor_when_holds_are_long():
    """A mean hold above a third of `max_wait` is said to be long."""
    assert not known(hold=0.33).is_poor
    assert known(hold=0.34).is_poor
