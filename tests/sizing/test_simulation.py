"""The line that is played through is the real pool's, wait by wait; and Erlang's formulas agree with it where they hold."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from itertools import pairwise

import pytest
from doubles.pools import TimedPool
from doubles.world import STOCK, Scene, play

from sqla_poolguard._demand import Demand
from sqla_poolguard._durations import Exponential, Histogram, Lognormal
from sqla_poolguard._erlang import wait_above
from sqla_poolguard._queueing import Day, waits

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
    day = Day(load / HOLD, Exponential(HOLD), requests=400_000, seed=7)
    for gaps in (0, 0.5, 1, 2, 4):
        seconds = gaps * HOLD / cell.servers
        expected = wait_above(seconds, cell.servers, load, HOLD)
        if expected >= 0.01:
            assert day.above(seconds, cell.servers) == pytest.approx(expected, rel=0.05), seconds


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
    """Not the one that chance gave it; and the same seed gives the same day."""
    day = Day(100.0, Lognormal(0.01, 0.3), burst=3, requests=50_000, seed=5)
    holds = [hold for _, hold in day._requests]
    assert len(holds) / day._requests[-1][0] == pytest.approx(100.0)
    assert statistics.fmean(holds) == pytest.approx(Lognormal(0.01, 0.3).mean)
    assert Day(100.0, Lognormal(0.01, 0.3), burst=3, requests=50_000, seed=5)._requests == day._requests
    assert len({at for at, _ in day._requests}) * 3 == len(holds)


@pytest.mark.parametrize("burst", [1, 5])
def test_more_connections_never_make_anybody_wait_longer(burst):
    """So the search may halve; and what it finds is enough, and one less is not."""
    demand = Demand(100.0, Lognormal(0.02, 0.3), burst=burst)
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
    day = Day(100.0, Exponential(0.43), requests=400_000)
    formula = Demand(100.0, Exponential(0.43)).least()
    played = next(size for size in range(44, 80) if day.above(0.05, size) <= 0.01)
    assert abs(played - formula) <= 1


@pytest.mark.parametrize("holds", [Exponential(0.43), Lognormal(0.2, 2.0)], ids=lambda shape: shape.words)
def test_longest_hold_is_one_that_fits(holds):
    """With holds of that mean so many are enough; with a tenth more they are not."""
    longest = Demand(100.0, holds).longest_hold(16)
    factor = longest / holds.mean
    assert Demand(100.0, holds.scaled(factor)).least() <= 16 < Demand(100.0, holds.scaled(factor * 1.1)).least()
