"""What the start-up line says: figures, who told them, and whether they fit."""

from __future__ import annotations

import pytest

from sqla_poolguard._budget import ServerLimits
from sqla_poolguard._startline import ProcessCount, start_line

LIMITS = ServerLimits(max_connections=100)
FOUR = ProcessCount(4, "WEB_CONCURRENCY")


@pytest.mark.parametrize(
    ("size", "overflow", "processes", "limits", "fits", "text"),
    [
        (10, 5, FOUR, LIMITS, True, "10+5 x 4 processes (WEB_CONCURRENCY) = 60 of 97 usable slots"),
        (5, 10, ProcessCount(1, "Guard"), LIMITS, True, "5+10 x 1 process (Guard) = 15 of 97 usable slots"),
        (
            5,
            10,
            ProcessCount(None, "WEB_CONCURRENCY"),
            LIMITS,
            None,
            "5+10 x ? processes (not known: set Guard(processes=...) or WEB_CONCURRENCY) = at least 15 of 97 usable slots",
        ),
        (
            20,
            10,
            FOUR,
            LIMITS,
            False,
            (
                "20+10 x 4 processes (WEB_CONCURRENCY) = 120, but there are only 97 usable slots: the last ones will be refused; "
                "at most 24 for each process fit"
            ),
        ),
        (
            1,
            0,
            ProcessCount(200, "Guard"),
            LIMITS,
            False,
            (
                "1+0 x 200 processes (Guard) = 200, but there are only 97 usable slots: the last ones will be refused; "
                "there are more processes than slots: a pooler is needed"
            ),
        ),
        (
            10,
            5,
            FOUR,
            ServerLimits(max_connections=100, role_limit=20),
            False,
            (
                "10+5 x 4 processes (WEB_CONCURRENCY) = 60, but there are only 20 usable slots (the limit of the role): "
                "the last ones will be refused; at most 5 for each process fit"
            ),
        ),
        (
            0,
            10,
            FOUR,
            LIMITS,
            False,
            "no limit x 4 processes (WEB_CONCURRENCY): a single process can take all 97 usable slots",
        ),
    ],
)
def test_line(size, overflow, processes, limits, fits, text):
    """The sum, its parts, who told them, the room, and a remedy where it does not fit."""
    line = start_line("orders", size, overflow, processes, limits, pooled=False)
    assert line.text == f"pool 'orders': {text}"
    assert line.fits is fits


@pytest.mark.parametrize("overflow", [5, -1])
def test_behind_a_pooler_nothing_is_judged(overflow):
    """The server's limits are not those that the pool will meet, and so are not told."""
    line = start_line("orders", 100, overflow, FOUR, LIMITS, pooled=True)
    assert line.fits is None
    assert "pooler, whose limits are its own" in line.text
    assert "97" not in line.text


@pytest.mark.parametrize(
    ("given", "text", "count", "source"),
    [
        (3, "8", 3, "Guard"),
        (None, "8", 8, "WEB_CONCURRENCY"),
        (None, " 8 ", 8, "WEB_CONCURRENCY"),
        (None, "", None, "WEB_CONCURRENCY"),
        (None, "auto", None, "WEB_CONCURRENCY"),
        (None, "0", None, "WEB_CONCURRENCY"),
        (None, "9" * 5000, None, "WEB_CONCURRENCY"),
        (None, "²", None, "WEB_CONCURRENCY"),
    ],
)
def test_processes(given, text, count, source):
    """What was given counts, then the variable if it is a number of processes; nonsense is as good as nothing."""
    assert ProcessCount.read(given, {"WEB_CONCURRENCY": text}) == ProcessCount(count, source)
