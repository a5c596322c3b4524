"""The breaker on connecting, in exact figures."""

from __future__ import annotations

import itertools
import math

import pytest

from sqla_poolguard import Downtime
from sqla_poolguard._breaker import Breaker
from sqla_poolguard._connects import BreakerState

REFUSED = ConnectionRefusedError(111, "Connect call failed")


def breaker(*, most=3, jitter=1.0, patience=0.25, opens=True):
    """Give a breaker whose pauses are as long as they may be, if not said otherwise."""
    return Breaker(patience, most, lambda: jitter, opens=opens)


def down(now=100.0, **options):
    """Give a breaker that is open since a refusal."""
    made = breaker(**options)
    made.failed(made.begin(now), now, REFUSED)
    return made


def probed(made, outcome="failed", took=0.0):
    """Probe when it is due, with this outcome; give the time of it."""
    now = made.probe_at
    probe = made.begin_probe(now)
    if outcome == "failed":
        made.failed(probe, now + took, REFUSED)
    elif outcome == "succeeded":
        made.succeeded(probe, now + took)
    else:
        made.abandoned(probe, now + took)
    made.check()
    return now + took


def test_closed_it_bounds_connects():
    """As many as `most` may be under way at one time, and one that ends makes room."""
    made = breaker(most=3)
    connects = [made.begin(100.0) for _ in range(4)]
    assert [connect is None for connect in connects] == [False, False, False, True]
    assert made.under_way == made.limit == 3
    made.succeeded(connects[0], 100.1)
    assert made.begin(100.1) is not None
    assert made.begin_probe(100.1) is None


def test_the_first_failure_opens_it():
    """No request may connect any more, and the probe is due within the first pause."""
    made = down(100.0)
    assert (made.state, made.limit, made.probe_at) == (BreakerState.OPEN, 0, 100.1)
    assert (made.down_since, made.fails) == (100.0, 1)
    assert made.begin(200.0) is None
    assert (made.begin_probe(100.05), made.begin_probe(100.1) is None) == (None, False)
    assert (made.state, made.limit) == (BreakerState.HALF_OPEN, 1)
    assert made.begin(200.0) is made.begin_probe(200.0) is None


@pytest.mark.parametrize(("jitter", "share"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_pauses_double_up_to_two_seconds(jitter, share):
    """Full jitter: a pause is anything between nothing and its bound."""
    made = down(100.0, jitter=jitter)
    pauses = [made.probe_at - 100.0]
    for _ in range(7):
        now = probed(made)
        pauses.append(made.probe_at - now)
    assert pauses == pytest.approx([bound * share for bound in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0)])
    assert made.fails == 8


def test_thirty_seconds_of_refusals_cost_few_connects():
    """With the mean of the jitter it takes thirty-odd probes, far from sixty."""
    made = down(100.0, jitter=0.5)
    while made.probe_at < 130.0:
        probed(made)
    assert made.fails == 34


def test_a_very_long_outage_keeps_the_figures_finite():
    """A pause after thousands of failures is still two seconds."""
    made = down(0.0)
    for _ in range(5000):
        now = probed(made)
    assert made.probe_at - now == pytest.approx(2.0)


def test_three_that_fail_together_count_as_one_for_the_pause():
    """They are three failures, but one step of backoff, and the armed probe stays armed."""
    made = breaker()
    connects = [made.begin(100.0 + n / 100) for n in range(3)]
    for connect in connects:
        made.failed(connect, 100.05, REFUSED)
        made.check()
    assert (made.fails, made.probe_at, made.down_since) == (3, pytest.approx(100.15), 100.0)
    now = probed(made)
    assert made.probe_at - now == pytest.approx(0.2)


def test_a_late_failure_leaves_the_probe_alone():
    """What was begun before it opened may fail while the probe is under way."""
    made = breaker()
    early, late = made.begin(100.0), made.begin(100.0)
    made.failed(early, 100.0, REFUSED)
    probe = made.begin_probe(101.0)
    made.failed(late, 101.5, OSError("late"))
    made.check()
    assert (made.state, made.limit, made.fails, str(made.last_error)) == (BreakerState.HALF_OPEN, 1, 2, "late")
    made.succeeded(probe, 101.6)
    assert made.state is BreakerState.CLOSED


def test_a_late_success_closes_it():
    """A request's own connect that succeeds after all is as good as a probe; the probe's failure is old then."""
    made = breaker()
    early, late = made.begin(100.0), made.begin(100.0)
    made.failed(early, 100.0, REFUSED)
    probe = made.begin_probe(100.1)
    made.succeeded(late, 100.2)
    made.check()
    assert (made.state, made.limit, made.probe_at, made.down_since, made.last_error) == ("closed", 1, math.inf, None, None)
    made.failed(probe, 102.1, TimeoutError())
    made.check()
    assert (made.state, made.fails) == (BreakerState.CLOSED, 0)


def test_what_hung_through_the_outage_stands_in_nobodys_way():
    """A connect from before is counted no more once the database is back: not as under way, and not as slow."""
    made = breaker()
    hung, early = made.begin(100.0), made.begin(100.0)
    made.failed(early, 100.0, REFUSED)
    probed(made, "succeeded", took=0.05)
    assert (made.under_way, made.hopeless(150.0, live=False)) == (0, False)
    assert made.begin(150.0) is not None
    made.failed(hung, 160.0, TimeoutError())
    made.check()
    assert made.state is BreakerState.CLOSED


def test_after_an_outage_connects_come_back_one_by_one():
    """One, then two, then three at a time."""
    made = down(100.0)
    now = probed(made, "succeeded")
    limits = [made.limit]
    for _ in range(4):
        made.succeeded(made.begin(now), now)
        limits.append(made.limit)
    assert limits == [1, 2, 3, 3, 3]


def test_a_new_outage_begins_anew():
    """The pause is short again, and the outage counts from the connect that failed first."""
    made = down(100.0)
    for _ in range(6):
        probed(made)
    now = probed(made, "succeeded")
    made.failed(made.begin(now + 5), now + 5.5, REFUSED)
    assert made.probe_at - (now + 5.5) == pytest.approx(0.1)
    assert (made.fails, made.down_since) == (1, now + 5)


def test_an_outage_does_not_begin_before_the_last_success():
    """A connect that hung for a minute, while others succeeded, is a failure of now."""
    made = breaker()
    hung = made.begin(100.0)
    made.succeeded(made.begin(159.0), 159.1)
    made.failed(hung, 160.0, TimeoutError())
    assert made.down_since == 159.1
    assert not made.hopeless(159.3, live=False)


def test_a_cancelled_connect_says_nothing():
    """Neither success nor failure; its place is free again."""
    made = breaker(most=1)
    connect = made.begin(100.0)
    made.abandoned(connect, 100.1)
    made.abandoned(connect, 100.1)
    made.check()
    assert (made.state, made.under_way, made.usual) == (BreakerState.CLOSED, 0, 0.1)
    assert made.begin(100.1) is not None


def test_a_connect_that_hangs_until_its_caller_gives_up_opens_it():
    """Into a black hole no connect ever fails by itself before its callers have gone; that must not go unnoticed."""
    made = breaker(patience=0.25)
    made.succeeded(made.begin(99.0), 99.05)
    connect = made.begin(100.0)
    made.abandoned(connect, 101.0)
    made.check()
    assert (made.state, made.down_since, made.probe_at) == (BreakerState.OPEN, 100.0, 101.1)
    assert type(made.last_error) is TimeoutError
    assert str(made.last_error) == "connecting was given up after 1.0 s"


@pytest.mark.parametrize(("late", "opens"), [(0.0, True), (0.4, True), (0.5, False), (1.0, False)])
def test_a_loop_that_is_late_hears_no_answer(late, opens):
    """Where it was late for half of the time or more, a connect that is given up says nothing of the database."""
    made, lag = breaker(), [7.0]
    connect = made.begin(100.0)
    connect.start(100.5, lambda: lag[0])
    assert connect.age(101.5) == 1.0
    lag[0] += late
    assert made.hopeless(101.5, live=False) is opens
    made.abandoned(connect, 101.5)
    assert (made.state is BreakerState.OPEN) is opens
    made.check()


def test_a_cancelled_probe_is_armed_again():
    """It has not failed, so the pause is not lengthened."""
    made = down(100.0)
    now = probed(made, "abandoned", took=5.0)
    assert (made.state, made.fails) == (BreakerState.OPEN, 1)
    assert made.probe_at - now == pytest.approx(0.1)


def test_hopeless_after_a_fourth_of_max_wait():
    """Waiters ride out a blip; newcomers of a longer outage are told at once, unless a connection lives."""
    made = down(100.0, patience=0.25)
    assert [made.hopeless(now, live=False) for now in (100.0, 100.24, 100.25, 400.0)] == [False, False, True, True]
    assert not made.hopeless(400.0, live=True)
    probed(made, "succeeded")
    assert not made.hopeless(400.0, live=False)


def test_hopeless_while_a_connect_hangs():
    """Longer than three times what is usual, or than a fourth of max_wait; the oldest counts."""
    made = breaker(patience=0.25)
    made.succeeded(made.begin(99.0), 99.1)
    made.begin(100.0)
    made.begin(100.28)
    assert [made.hopeless(now, live=False) for now in (100.0, 100.25, 100.29, 100.31)] == [False, False, False, True]
    assert not made.hopeless(100.31, live=True)


def test_the_first_connects_get_most_of_max_wait():
    """Before any has succeeded nobody knows how long one takes: a slow one is no outage yet; but it is before those who wait leave."""
    made = breaker(patience=0.25)
    made.begin(100.0)
    assert [made.hopeless(now, live=False) for now in (100.3, 100.7, 100.8)] == [False, False, True]


def test_usual_follows_what_succeeds():
    """Three tenths of the way each time, and no hanging one takes it far."""
    made = breaker(patience=0.25)
    for took, usual in ((0.05, 0.085), (0.05, 0.0745), (60.0, 0.0745 + 0.3 * (0.25 - 0.0745))):
        made.succeeded(made.begin(100.0), 100.0 + took)
        assert made.usual == pytest.approx(usual)


def test_usual_learns_that_connects_are_slow():
    """Where each takes three seconds, that is usual after some of them."""
    made = breaker(patience=0.25)
    for _ in range(12):
        made.succeeded(made.begin(100.0), 103.0)
    assert made.usual == pytest.approx(3.0, rel=0.15)


def test_eta():
    """Seconds until a connection could be there: a connect's, more if it takes long already, and the pause before it."""
    made = breaker()
    assert made.eta(100.0) == 0.1
    connect = made.begin(100.0)
    assert [round(made.eta(now), 6) for now in (100.0, 100.3, 100.5)] == [0.1, 0.1, 0.5]
    made.failed(connect, 101.0, REFUSED)
    assert [round(made.eta(now), 6) for now in (101.0, 101.06, 105.0)] == [0.2, 0.14, 0.1]
    made.begin_probe(105.0)
    assert [round(made.eta(now), 6) for now in (105.0, 106.0)] == [0.1, 1.0]


def test_eta_looks_at_the_probe():
    """A request's own connect that has hung for long does not tell when the probe is done."""
    made = breaker()
    made.begin(100.0)
    made.failed(made.begin(100.0), 100.0, REFUSED)
    made.begin_probe(110.0)
    assert made.eta(110.0) == pytest.approx(0.1)


def test_probe_timeout():
    """Two seconds, or the driver's own; longer where connects usually are, and in a long outage."""
    made = breaker()
    assert [made.probe_timeout(100.0, own) for own in (math.inf, 10.0, 2.0, 0.5)] == [2.0, 2.0, 2.0, 0.5]
    for _ in range(30):
        made.succeeded(made.begin(100.0), 103.0)
    assert made.probe_timeout(100.0, math.inf) == pytest.approx(9.0, rel=0.01)
    made = down(100.0)
    assert [made.probe_timeout(100.0 + lasted, 60.0) for lasted in (30, 32, 160, 3600)] == [2.0, 2.0, 10.0, 60.0]


def test_the_timer_lapses_when_nobody_wants_a_connection():
    """Thirty seconds after the last request nothing is probed; the next request makes the probe due at once."""
    made = down(100.0)
    assert made.wake_at == made.probe_at == 100.1
    while made.wake_at < math.inf:
        now = probed(made)
    assert 128.0 < now <= 130.0
    assert (made.state, made.probe_at < 133.0) == (BreakerState.OPEN, True)
    made.wanted(1000.0)
    assert made.wake_at == made.probe_at < 1000.0
    assert made.begin_probe(1000.0) is not None


def test_the_timer_goes_on_as_long_as_somebody_waits():
    """Whoever waits for ever keeps it running."""
    made = down(100.0)
    for _ in range(100):
        made.wanted(probed(made))
        assert made.wake_at == made.probe_at


def test_a_connect_that_hung_for_a_minute_was_wanted_until_it_failed():
    """Its caller waited for it, and so the timer is set."""
    made = breaker()
    made.failed(made.begin(100.0), 160.0, TimeoutError())
    assert made.wake_at == made.probe_at == pytest.approx(160.1)


def test_no_timer_without_an_outage():
    """Closed, or while the probe is under way, nothing is to be woken."""
    made = breaker()
    assert made.wake_at == math.inf
    made = down(100.0)
    made.begin_probe(100.1)
    assert made.wake_at == math.inf


def test_cause():
    """There is always an error to show: the last one, or that it takes so long."""
    made = breaker()
    connect = made.begin(100.0)
    assert str(made.cause(100.4)) == "connecting has taken 0.4 s so far, 0.10 s as a rule"
    made.failed(connect, 100.5, REFUSED)
    assert type(made.cause(101.0)) is ConnectionRefusedError
    assert str(made.cause(101.0)) == str(REFUSED)


def test_it_keeps_no_traceback():
    """The frames of who saw the error first hold sessions and connections: they may go."""
    made = breaker()
    with pytest.raises(ConnectionRefusedError) as caught:
        raise REFUSED
    made.failed(made.begin(100.0), 100.0, caught.value)
    assert caught.value.__traceback__ is not None
    assert made.last_error.__traceback__ is None


def test_downtime():
    """What the error tells: for how long, how often, how long ago, and when next."""
    made = breaker()
    assert made.downtime(100.0) == Downtime(lasted=0.0, fails=0, error_age=None, next_try=None)
    connect = made.begin(100.0)
    assert made.downtime(100.5) == Downtime(lasted=0.5, fails=0, error_age=None, next_try=None)
    made.failed(connect, 101.0, REFUSED)
    assert made.downtime(101.0) == Downtime(lasted=1.0, fails=1, error_age=0.0, next_try=pytest.approx(0.1))
    assert made.downtime(103.0) == Downtime(lasted=3.0, fails=1, error_age=2.0, next_try=0.0)
    made.begin_probe(103.0)
    assert made.downtime(103.5).next_try is None


def test_forget():
    """A forked child begins anew, and what its parent had begun is not its own."""
    made = down(100.0)
    probe = made.begin_probe(101.0)
    made.forget()
    made.check()
    assert (made.state, made.limit, made.under_way, made.usual) == (BreakerState.CLOSED, 3, 0, 0.1)
    made.abandoned(probe, 102.0)
    made.failed(probe, 102.0, REFUSED)
    made.check()
    assert made.state is BreakerState.CLOSED


def test_switched_off_it_only_counts_connects():
    """As many as `most` at a time, whatever fails, and waiting is never hopeless."""
    made = breaker(most=2, opens=False)
    for now in range(100, 110):
        made.failed(made.begin(now), now, REFUSED)
    made.abandoned(made.begin(110.0), 170.0)
    connects = [made.begin(200.0) for _ in range(3)]
    made.check()
    assert connects[2] is None
    assert (made.state, made.hopeless(300.0, live=False)) == (BreakerState.CLOSED, False)


def test_repr_shows_the_state():
    """A debugger shows what it says and why."""
    assert repr(breaker()) == "<Breaker closed, 0 of 3 connects under way, 0 failed>"
    assert repr(down()) == "<Breaker open, 0 of 0 connects under way, 1 failed>"


@pytest.mark.parametrize("attribute", ["probe_at", "limit", "down_since", "state"])
def test_check_complains(attribute):
    """A figure that does not fit the others is told."""
    made = breaker()
    setattr(made, attribute, {"probe_at": 1.0, "limit": 4, "down_since": 1.0, "state": BreakerState.OPEN}[attribute])
    with pytest.raises(AssertionError, match="law broken: "):
        made.check()


def test_jitter_is_drawn_once_for_each_pause():
    """Nothing else uses the generator, so that a seed gives the same outage again."""
    drawn = itertools.count()
    made = Breaker(0.25, 3, lambda: next(drawn) * 0.0)
    made.failed(made.begin(0.0), 0.0, REFUSED)
    for _ in range(4):
        probed(made)
    assert next(drawn) == 5
