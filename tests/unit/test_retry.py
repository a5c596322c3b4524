"""The virtual line of those who were turned away."""

from __future__ import annotations

from sqla_poolguard._retry import RetryLine


def test_places_are_spread_at_half_the_rate():
    """One after the other, two gaps apart, behind those who wait already."""
    line = RetryLine()
    assert [line.next_turn(100.0, 4, 0.5) for _ in range(3)] == [3.0, 4.0, 5.0]


def test_line_drains_with_time():
    """When time has passed the line is empty again."""
    line = RetryLine()
    for _ in range(5):
        line.next_turn(100.0, 0, 1.0)
    assert line.next_turn(105.0, 0, 1.0) == 7.0
    assert line.next_turn(200.0, 0, 1.0) == 2.0


def test_line_is_bounded():
    """Nobody is sent away for more than thirty seconds."""
    line = RetryLine()
    assert [line.next_turn(100.0, 1000, 10.0) for _ in range(3)] == [30.0, 30.0, 30.0]


def test_idle_pool_sends_nobody_away():
    """Where connections come back at once, one may come back at once."""
    assert RetryLine().next_turn(100.0, 0, 0.0) == 0.0
