"""The chain of bursts against Erlang's formula, against the chain's own equations, and against figures that others have computed."""

from __future__ import annotations

import random

import pytest

from sqla_poolguard._bursts import late_in_bursts, least_for_bursts
from sqla_poolguard._erlang import least_servers, wait_above
from sqla_poolguard._queueing import waits


@pytest.mark.parametrize(
    ("patience", "servers", "load"), [(0.5, 10, 7.0), (1.5, 200, 196.0), (0.0, 5, 3.0), (2.0, 1, 0.7), (1.5, 656, 652.8)]
)
def test_bursts_of_one_are_erlangs(patience, servers, load):
    """The chain, which goes another way, meets the formula."""
    assert late_in_bursts(patience, servers, load, 1) == pytest.approx(wait_above(patience, servers, load, 1.0), rel=1e-9)
    assert least_for_bursts(patience, load, 1, 0.01) == least_servers(load, 1.0, patience, 0.01)


@pytest.mark.parametrize(
    ("patience", "servers", "load", "burst", "share"), [(50 / 32.6, 210, 195.6, 10, 0.00976), (0.5, 363, 300.0, 20, 0.00935)]
)
def test_figures_of_another_solution(patience, servers, load, burst, share):
    """A reviewer's own solution of M^X/M/c: 0.976 % and 0.935 %, for 6000/s of 32.6 ms in tens and 3000/s of 100 ms in twenties."""
    assert late_in_bursts(patience, servers, load, burst) == pytest.approx(share, abs=0.000005)


def test_one_connection_for_bursts():
    """M^X/M/1: whoever comes finds somebody as often as it is busy, or comes as second or later of a burst."""
    busy, burst = 0.6, 4
    assert late_in_bursts(0.0, 1, busy, burst) == pytest.approx(1 - (1 - busy) / burst)


def test_bursts_that_are_played():
    """A line of our own, drawn by the standard library: within 5 %."""
    dice, now, asked = random.Random(5), 0.0, []
    for number in range(400_000):
        now += dice.expovariate(7.0 / 5) if number % 5 == 0 else 0.0
        asked.append((now, dice.expovariate(1.0)))
    share = sum(wait > 0.4 for wait in waits(asked, 12)) / len(asked)
    assert late_in_bursts(0.4, 12, 7.0, 5) == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("burst", [1, 7, 1000])
def test_more_connections_never_look_worse(burst):
    """And shares stay shares, also where they are as good as nothing, and where they cannot keep up."""
    shares = [round(late_in_bursts(1.0, servers, 40.0, burst), 12) for servers in range(39, 300, 3)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert all(0 <= share <= 1 for share in shares)
    assert late_in_bursts(1.0, 100_000, 99_900.0, 1) == pytest.approx(0.0, abs=1e-9)
