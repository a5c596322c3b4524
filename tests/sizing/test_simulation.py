"""The line that is played through is the real pool's, wait by wait; and Erlang's formulas agree with it where they hold."""

from __future__ import annotations

import random
import statistics
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import pytest
from doubles.pools import TimedPool
from doubles.world import STOCK, Scene, play

from sqla_poolguard._budget import Processes
from sqla_poolguard._demand import Demand
from sqla_poolguard._erlang import wait_above
from sqla_poolguard._hold_times import Exponential, Histogram, Lognormal
from sqla_poolguard._plan import make_plan
from sqla_poolguard._queueing import Line, Traffic, waits
from sqla_poolguard._sizing import Load, Service, Target

HOLD = 0.05
PATIENT = {"patience": 1e6, "retries": 0, "warmup": 0.0}


def real_waits(pool, **options):
    """Let clients ask a real pool in virtual time; give (second, hold, wait) of each that got a connection, in order of coming."""
    scene = Scene(hold=HOLD, **PATIENT, **options)
    outcome = play(scene, pool=pool, timeout=1e6, **({"fail_fast": False} if pool is TimedPool else {}))
    served = [attempt for attempt in outcome.attempts if attempt.granted is not None]
    return [(attempt.at, attempt.request.work, attempt.granted - attempt.at) for attempt in served]


@pytest.mark.parametrize("shape", ["exponential", "lognormal", "bimodal"])
@pytest.mark.parametrize(("connections", "load", "bursts"), [(1, 0.7, ()), (4, 0.9, ()), (10, 0.6, ((3.0, 40), (5.0, 40)))])
def test_real_pool_waits_as_the_line_that_is_played(shape, connections, load, bursts):
    """`GuardedPool` on the virtual clock: the same requests wait equally long, each one."""
    real = real_waits(TimedPool, load=((0.0, load),), connections=connections, shape=shape, seconds=12.0, bursts=bursts)
    played = waits([(at, hold) for at, hold, _ in real], connections)
    assert len(real) > 100
    assert any(wait > 0 for _, _, wait in real)
    assert [wait for _, _, wait in real] == pytest.approx(list(played), abs=1e-6)


@dataclass(frozen=True)
class Cell:
    """One cell of the grid."""

    servers: int
    busy: float
    """Of each, the part of the time."""


GRID = [Cell(servers, busy) for servers in (1, 5, 10, 30) for busy in (0.6, 0.8, 0.9)]


@pytest.mark.parametrize("cell", GRID, ids=str)
def test_erlang_agrees_with_the_simulation(cell):
    """Within 5 %, for waits from none to four times the mean time until one gets free; where at least 1 % wait so long."""
    load = cell.servers * cell.busy
    day = Traffic(Exponential(HOLD), seed=7).day(0, 400_000)
    requests = [(at * HOLD / load, hold * HOLD) for at, hold in zip(*day, strict=True)]
    seen = sorted(list(waits(requests, cell.servers))[40_000:])
    for gaps in (0, 0.5, 1, 2, 4):
        seconds = gaps * HOLD / cell.servers
        expected = wait_above(seconds, cell.servers, load, HOLD)
        if expected >= 0.01:
            share = 1 - bisect_right(seen, seconds) / len(seen)
            assert share == pytest.approx(expected, rel=0.05), seconds


@pytest.mark.parametrize(
    "shape", [Exponential(HOLD), Lognormal(0.03, 0.2), Histogram((0.04, 0.06), (0, 1, 0), HOLD)], ids=lambda shape: shape.words
)
def test_one_connection_waits_as_pollaczek_and_khinchine_say(shape):
    """M/G/1 with any holds: E[W] = rate E[S^2] / (2 (1 - rho)). Source: Kleinrock, Queueing Systems, volume 1, section 5.6."""
    dice = random.Random(3)
    rate, now, requests = 0.6 / shape.mean, 0.0, []
    for _ in range(400_000):
        now += dice.expovariate(rate)
        requests.append((now, shape.draw(dice)))
    second = shape.mean**2 * (1 + shape.variation**2)
    assert statistics.fmean(waits(requests, 1)) == pytest.approx(rate * second / (2 * (1 - 0.6)), rel=0.05)


@pytest.mark.parametrize("pool", [TimedPool, STOCK])
@pytest.mark.parametrize(("connections", "load"), [(1, 0.6), (2, 0.7)])
def test_real_pools_agree_with_erlang(pool, connections, load):
    """The stock pool and ours for some thousand virtual holds: within 5 % of the formula, for the load that chance gave them."""
    real = real_waits(pool, load=((0.0, load),), connections=connections, seconds=400.0)
    hold = statistics.fmean(hold for _, hold, _ in real)
    erlangs = len(real) / (real[-1][0] - real[0][0]) * hold
    for seconds in (0.0, 0.005, 0.01):
        share = sum(wait > seconds + 1e-9 for _, _, wait in real) / len(real)
        assert share == pytest.approx(wait_above(seconds, connections, erlangs, hold), rel=0.05)


def test_a_day_has_the_load_that_is_asked_about():
    """Not the one that chance gave it; and the same seed gives the same days, each of them another."""
    traffic = Traffic(Lognormal(0.01, 0.3), burst=3, seed=5)
    day = traffic.day(0, 50_000)
    assert len(day.held) / day.comes[-1] == pytest.approx(1.0)
    assert statistics.fmean(day.held) == pytest.approx(1.0)
    assert len(set(day.comes)) * 3 == len(day.held)
    assert Traffic(Lognormal(0.02, 0.6), burst=3, seed=5).day(0, 50_000).comes == day.comes
    assert traffic.day(1, 50_000).comes != day.comes


def test_a_line_that_is_played_on_knows_more():
    """Day after day, with whoever holds at midnight still holding; the share is that of all waits, and is known better."""
    traffic, patience = Traffic(Lognormal(0.02, 0.4)), 1.0
    line = Line(traffic, 4.6, 8, patience, 20_000)
    line.play(1)
    short = line.share()
    line.play(8)
    requests, now = [], 0.0
    for number in range(8):
        day = traffic.day(number, 20_000)
        requests += [(now + at / 4.6, hold) for at, hold in zip(*day, strict=True)]
        now += day.comes[-1] / 4.6
    late = [wait > patience for wait in waits(requests, 8)][2 * 20_000 // 16 :]
    share = line.share()
    assert share.seen == pytest.approx(sum(late) / len(late))
    assert share.low < share.seen < share.high
    assert share.high - share.low < short.high - short.low


def test_how_well_a_share_is_known():
    """Of forty lines with other chances, nearly all have the long run's share between their ends."""
    shares = []
    for seed in range(40):
        line = Line(Traffic(Lognormal(0.02, 0.4), seed=seed), 4.583, 7, 1.09, 20_000)
        line.play(1)
        shares.append(line.share())
    truth = statistics.fmean(share.seen for share in shares)
    assert sum(share.low <= truth <= share.high for share in shares) >= 37


@pytest.mark.parametrize("burst", [1, 5])
def test_more_connections_never_make_anybody_wait_longer(burst):
    """So the search may halve; and what it finds is enough, and one less is not."""
    demand = Demand(100.0, Lognormal(0.02, 0.3), burst=burst, most=0)
    size = demand.least()
    shares = [demand.share(number) for number in range(int(demand.erlangs) + 1, size + 3)]
    assert all(more >= fewer for more, fewer in pairwise(shares))
    assert demand.share(size) <= 0.01 < demand.share(size - 1)


def test_bursts_and_long_tails_need_more():
    """Same mean hold and rate: what Erlang's formula says is too little."""
    mean = Lognormal(0.01, 0.5).mean
    plain = Demand(100.0, Exponential(mean)).least()
    assert Demand(100.0, Lognormal(0.01, 0.5)).least() > plain
    assert Demand(100.0, Exponential(mean), burst=5).least() > plain


def test_exponential_holds_need_what_erlang_says_when_they_are_played():
    """The two ways to the same figure meet."""
    formula, shares = Demand(100.0, Exponential(0.43)).least(), {}
    for size in (formula + 1, formula - 2):
        line = Line(Traffic(Exponential(0.43)), 43.0, size, 0.05 / 0.43, 400_000)
        line.play(1)
        shares[size] = line.share().seen
    assert shares[formula + 1] <= 0.01 < shares[formula - 2]


@pytest.mark.parametrize("holds", [Exponential(0.43), Lognormal(0.2, 2.0)], ids=lambda shape: shape.words)
def test_longest_hold_is_one_that_fits(holds):
    """With holds of that mean so many are enough; with a tenth more they are not."""
    longest = Demand(100.0, holds).longest_hold(16)
    factor = longest / holds.mean
    assert Demand(100.0, holds.scaled(factor), most=0).least() <= 16 < Demand(100.0, holds.scaled(factor * 1.1), most=0).least()


def long_run(rate, draw, burst, size, requests=600_000):
    """Play a load with other chances, drawn another way and stretched to nothing: the share that waits longer than 50 ms."""
    dice, now, asked = random.Random(99), 0.0, []
    for number in range(requests):
        now += dice.expovariate(rate / burst) if number % burst == 0 else 0.0
        asked.append((now, draw(dice)))
    return sum(wait > 0.05 for wait in waits(asked, size)) / requests


@pytest.mark.parametrize(
    ("holds", "draw", "burst"),
    [
        (Lognormal(0.02, 0.4), lambda dice: dice.lognormvariate(-3.912023, 1.287757), 1),
        (Exponential(0.03), lambda dice: dice.expovariate(1 / 0.03), 5),
        (Histogram((0.01, 0.4), (90, 10, 0), 2.5), lambda dice: dice.uniform(0, 0.01) if dice.random() < 0.9 else dice.uniform(0.01, 0.4), 1),
    ],
    ids=["lognormal", "bursts", "histogram"],
)  # fmt: skip
def test_longer_runs_with_other_chances_say_the_same(holds, draw, burst):
    """What is suggested is enough for them; and one less is not, unless it was said that this is not certain."""
    demand = Demand(100.0, holds, burst=burst)
    size = demand.least()
    assert long_run(100.0, draw, burst, size) <= 0.01
    assert long_run(100.0, draw, burst, size - 1) > 0.01 or not demand.is_certain(size)


def test_near_the_goal_the_safe_side_is_taken():
    """On the first hundred thousand requests eight are enough; longer runs have 1.15 % wait, and nine it is."""
    holds = Lognormal(0.02, 0.4)
    demand = Demand(100.0, holds)
    assert demand.least() == 9
    assert demand.known(8).low < 0.0115 < demand.known(8).high
    assert demand.known(9).high <= 0.01


def test_what_is_not_certain_is_on_the_safe_side():
    """The goal is put where no run of bearable length tells eight from nine: nine, and it is said that eight may do."""
    demand = Demand(100.0, Lognormal(0.02, 0.4), share=0.0116)
    assert demand.least() == 9
    assert not demand.is_certain(9)
    assert demand.known(8).low <= 0.0116 < demand.known(8).high
    assert demand.played <= 1_600_000


def test_played_curve_agrees_with_what_was_played_for_longer():
    """More connections never look worse, and the size that is suggested is the first that is surely enough."""
    service = Service(processes=Processes(), usable=97)
    plan = make_plan(Load(rate=100.0, holds=Lognormal(0.02, 0.4)), Target(), service)
    assert plan.size == 9
    shares = [point.share for point in plan.curve]
    assert shares == sorted(shares, reverse=True)
    assert dict(plan.curve)[9] == plan.wait_share == plan.known.seen
    assert dict(plan.curve)[8] == plan.known_below.seen > 0.01
    assert plan.known.high <= 0.01
