"""Shapes of hold times: what is drawn has the mean and the spread that was given."""

from __future__ import annotations

import random
import statistics

import pytest

from sqla_poolguard._hold_times import Exponential, Histogram, Lognormal

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
SHAPES = [
    Exponential(0.03),
    Lognormal(0.02, 0.2),
    Histogram(BOUNDS, (10, 100, 300, 500, 50, 30, 5, 4, 1, 0), 60.0),
    Histogram(BOUNDS, (0, 0, 0, 100, 0, 0, 0, 0, 0, 0), 3.0),
]


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.words)
def test_what_is_drawn_has_the_mean_and_the_variation(shape, one_by_one):
    """Two hundred thousand of each."""
    dice = random.Random(1)
    drawn = [shape.draw(dice) for _ in range(200_000)] if one_by_one else shape.draws(dice, 200_000)
    assert len(drawn) == 200_000
    assert min(drawn) >= 0
    assert statistics.fmean(drawn) == pytest.approx(shape.mean, rel=0.02)
    assert statistics.pstdev(drawn) / statistics.fmean(drawn) == pytest.approx(shape.variation, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.words)
def test_scaled_keeps_the_shape(shape):
    """Half as long, and spread as before."""
    half = shape.scaled(0.5)
    assert half.mean == pytest.approx(shape.mean / 2)
    assert half.variation == pytest.approx(shape.variation)


def test_lognormal_goes_through_its_percentiles():
    """Half of what is drawn is above the median, one in a hundred above the 99th percentile."""
    dice, shape = random.Random(1), Lognormal(0.02, 0.2)
    drawn = statistics.quantiles((shape.draw(dice) for _ in range(200_000)), n=100)
    assert drawn[49] == pytest.approx(0.02, rel=0.02)
    assert drawn[98] == pytest.approx(0.2, rel=0.04)


def test_histogram_whose_last_bucket_counts():
    """What lay above the last bound is as long as the sum demands."""
    shape = Histogram((1.0,), (90, 10), 345.0)
    assert shape.mean == 3.45
    assert max(shape.draw(random.Random(seed)) for seed in range(200)) > 30


@pytest.mark.parametrize(
    ("bounds", "counts", "total"),
    [
        ((1.0,), (1, 2, 3), 5.0),
        ((1.0, 0.5), (1, 1, 1), 5.0),
        ((1.0,), (0, 0), 0.0),
        ((1.0,), (5, 0), 0.0),
        ((1.0,), (-1, 5), 3.0),
    ],
)
def test_histogram_that_is_none(bounds, counts, total):
    """Nothing is made of what does not fit together, or tells nothing."""
    with pytest.raises(ValueError, match="histogram"):
        Histogram(bounds, counts, total)


@pytest.mark.parametrize(("p50", "p99"), [(0.0, 0.1), (0.2, 0.1), (-1.0, 1.0), (0.001, 1.1)])
def test_percentiles_that_cannot_be(p50, p99):
    """The message names both."""
    with pytest.raises(ValueError, match=f"p50={p50} and p99={p99} are not allowed; allowed"):
        Lognormal(p50, p99)
