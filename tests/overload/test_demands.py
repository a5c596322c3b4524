"""What is demanded of the pool under overload, each with a fixed seed; `python -m benchmarks.overload` prints the same as a table."""

from __future__ import annotations

import math

import pytest
from doubles.database import Kind, Outage
from doubles.demands import DEMANDS
from doubles.world import STOCK, Scene, play


def black_hole(end, seconds):
    """Give a scene with a black hole from second 5 on."""
    return Scene(load=((0.0, 0.7),), seconds=seconds, warmup=0.0, connect=(0.02, 0.1), outage=Outage(Kind.BLACK_HOLE, 5.0, end))


@pytest.mark.parametrize("demand", DEMANDS, ids=[demand.name for demand in DEMANDS])
def test_demand_is_met(demand):
    """The figure is what it has to be."""
    figure = demand.measure()
    assert demand.is_met(figure), f"{figure:.3f} {demand.unit}, demanded: {demand.bound}"


def test_the_stock_pool_serves_nobody_in_time():
    """The world is as hard as it is said to be: at 1.2x nearly all answers of the stock pool come too late."""
    outcome = play(Scene(load=((0.0, 1.2),), seconds=20.0), pool=STOCK)
    assert outcome.goodput() < 0.05


def test_the_stock_pool_does_not_recover():
    """A black hole of 10 s at 0.7x leaves behind a queue of clients that have gone, and the stock pool never catches up."""
    outcome = play(black_hole(end=15.0, seconds=28.0), pool=STOCK)
    assert outcome.back(15.0) == math.inf
    assert outcome.time_to_error(0.99, (5.0, 15.0)) > 10


def test_an_outage_is_the_same_again():
    """The same seed gives the same probes; another one does not."""
    first, second, other = (play(black_hole(end=8.0, seconds=10.0), seed=seed) for seed in (1, 1, 2))
    assert first.connects == second.connects != other.connects
    assert [one.refused for one in first.attempts] == [one.refused for one in second.attempts]


def test_a_world_is_the_same_again():
    """The same seed gives the same run, to the last request; another one does not."""
    scene = Scene(load=((0.0, 2.0),), seconds=3.0, warmup=0.0)
    first, second, other = (play(scene, seed=seed).attempts for seed in (1, 1, 2))
    assert first == second or [one.refused for one in first] == [one.refused for one in second]
    assert [one.at for one in first] != [one.at for one in other]


def test_observing_refuses_nobody():
    """`fail_fast="observe"` counts about as many as it would have to turn away at 1.2x and 2x, and turns nobody away."""
    for load in (1.2, 2.0):
        outcome = play(
            Scene(load=((0.0, load),), seconds=20.0, warmup=0.0, patience=60.0, retries=0), fail_fast="observe", max_wait=1.0
        )
        assert outcome.refused() == 0
        share = outcome.would_reject / len(outcome.attempts)
        assert 0.5 * (1 - 1 / load) < share < 1.2 * (1 - 1 / load)


def test_observing_below_capacity_counts_hardly_anybody():
    """At 0.8x next to nothing would have been turned away."""
    outcome = play(Scene(load=((0.0, 0.8),), seconds=60.0, warmup=0.0, retries=0), fail_fast="observe", max_wait=1.0)
    assert outcome.would_reject <= 0.005 * len(outcome.attempts)
