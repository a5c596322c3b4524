"""The rivals of the simulation do what they are said to do."""

from __future__ import annotations

import sys
from pathlib import Path

from doubles.world import Scene, play

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.overload.rivals import CoDelPool, MaxWaiting


def test_codel_drops_who_has_waited_for_twice_the_target():
    """Below capacity nobody is dropped; at 3x most are, after a tenth of a second, from the second interval on."""
    quiet = play(Scene(load=((0.0, 0.3),), seconds=8.0, warmup=0.0), pool=CoDelPool)
    assert (quiet.refused(), quiet.served((0.0, 7.0))) == (0, 1)
    busy = play(Scene(load=((0.0, 3.0),), seconds=9.0, warmup=6.0), pool=CoDelPool)
    assert busy.goodput() > 0.9
    assert 0.1 < busy.time_to_refusal(0.5) < 0.15
    assert min(one.refused for one in busy.attempts if one.refused) - busy.began >= CoDelPool.interval


def test_codel_drops_when_nothing_moves():
    """All connections leak: who waits is dropped at a poll."""
    stuck = Scene(load=((0.0, 0.8),), seconds=12.0, warmup=0.0, leaks=((2.0, 10, 30.0),), patience=20.0, retries=0)
    outcome = play(stuck, pool=CoDelPool)
    assert outcome.refused() > 0.5
    assert (
        1.0 < outcome.time_to_refusal(0.99) <= 3 * CoDelPool.interval
    )  # nothing has moved, for one interval too slowly, and then it is dropped


def test_a_fixed_length_refuses_bursts():
    """A hundred at once could be served in half a second; ten run, fifty wait, and forty are refused."""
    outcome = play(Scene(load=((0.0, 0.01),), bursts=((1.0, 100),), seconds=5.0, warmup=0.0, retries=0), pool=MaxWaiting)
    assert 38 <= sum(one.refused is not None for one in outcome.attempts) <= 42
