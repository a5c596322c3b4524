"""What large loads need, against figures that were computed or played elsewhere."""

from __future__ import annotations

import pytest

from sqla_poolguard._demand import Demand
from sqla_poolguard._erlang import least_servers
from sqla_poolguard._hold_times import Exponential, Histogram, Lognormal

LONG = Lognormal(0.02, 0.2)


@pytest.mark.parametrize(("rate", "enough"), [(3000.0, 102), (6000.0, 200), (20_000.0, 657)])
def test_large_loads_with_long_holds(rate, enough):
    """Enough, and at most one too many; and it is not called certain.

    `python -m benchmarks.sizing large` plays the first two; a program in C (the same loop, 60,000,000 checkouts of other chances) gave:
    101: 1.88 %, 102: 0.55 %; 198: 6.77 %, 199: 2.08 %, 200: 0.62 %; 656: 2.55 %, 657: 0.66 % of the waits longer than 50 ms.
    """
    demand = Demand(rate, LONG)
    size = demand.least()
    assert enough <= size <= enough + 1
    assert not demand.is_certain(size)
    assert demand.known(size).high <= 0.01


@pytest.mark.parametrize(("rate", "hold", "burst", "size"), [(6000.0, 0.0326, 10, 210), (3000.0, 0.1, 20, 363)])
def test_large_loads_in_bursts(rate, hold, burst, size):
    """Exactly solved (`tests/unit/test_bursts.py` holds it to others' figures), so it is certain."""
    demand = Demand(rate, Exponential(hold), burst=burst)
    assert demand.least() == size
    assert demand.is_certain(size)
    assert not demand.simulated


@pytest.mark.parametrize("rate", [1000.0, 6000.0, 100_000.0])
def test_never_fewer_than_with_exponential_holds(rate):
    """Not where holds vary more than they, nor where they come in bursts; with what is only compared, too."""
    for most in (0, 200_000):
        exponential = least_servers(rate * LONG.mean, LONG.mean, 0.05, 0.01)
        alone = Demand(rate, LONG, most=most).least()
        assert exponential <= alone <= exponential + 3
        assert Demand(rate, LONG, burst=10, most=most).least() > alone


def test_holds_that_are_all_alike():
    """They need no more than exponential ones; in bursts they may."""
    alike = Histogram((0.029, 0.031), (0, 1, 0), 0.03)
    demand = Demand(10_000.0, alike)
    assert 300 < demand.least() <= least_servers(300.0, 0.03, 0.05, 0.01)
    assert not demand.is_certain(demand.least())
    assert demand.known(demand.least() - 1).low == 0.0


def test_short_runs_are_never_certain():
    """However good one looks: what a queue of relaxation time T does is not seen in a few T."""
    demand = Demand(3000.0, LONG, most=200_000)
    assert not demand.is_certain(demand.least())
