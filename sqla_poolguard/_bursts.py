"""Requests that come several at a time and hold exponentially (M^X/M/c): how many wait for too long, solved and not played."""

from __future__ import annotations

import math
from collections import deque
from itertools import count
from typing import Final

__all__ = ["late_in_bursts", "least_for_bursts"]

_HUGE: Final = 1e200
_NOTHING: Final = 1e-14
"""A likelihood that is left out."""
_FAR: Final = 8.0
"""Standard deviations beyond which Poisson's distribution has nothing."""


def late_in_bursts(patience: float, servers: int, load: float, burst: int) -> float:
    """
    Give the probability that a request waits for longer than is tolerated, where bursts come by chance (Poisson), all of one size.

    The number of requests that are there, holding or waiting, is a chain: from n to n + 1 it goes as often as back, which gives the likelihood
    of each number from those of the `burst` numbers before it. On average servers - load connections are free (Little's law), which gives
    them their scale. Whoever is the k-th of those that wait waits until k have ended, so many of which end by chance in a time (Poisson).
    With bursts of one it is Erlang's formula. Source: M. L. Chaudhry and J. G. C. Templeton, A First Course in Bulk Queues, 1983, M^X/M/c.

    Args:
        patience: the wait that is tolerated, in mean holds.
        servers: connections.
        load: in erlang, all requests of all bursts.
        burst: how many come at a time.
    """
    if load >= servers:
        return 1.0
    # `window` is what the last `burst` numbers weigh: its part of them all is that of the requests who find so many before them
    recent, window, free, at_once = deque([1.0], maxlen=burst), 1.0, float(servers), 0.0
    for number in range(1, servers + 1):
        at_once += window
        chance = load / burst * window / number
        window += chance - (recent[0] if len(recent) == burst else 0.0)
        recent.append(chance)
        free += (servers - number) * chance
        if window > _HUGE:  # what becomes zero by this is far too unlikely to matter
            recent = deque((each / _HUGE for each in recent), maxlen=burst)
            window, free, at_once = window / _HUGE, free / _HUGE, at_once / _HUGE
    scale, ended = (servers - load) / free / burst, servers * patience
    in_time, fewer, furthest = at_once * scale, 0.0, ended + _FAR * math.sqrt(ended) + _FAR**2
    for waiting in count():
        fewer += math.exp(waiting * math.log(ended) - ended - math.lgamma(waiting + 1)) if ended else float(not waiting)
        likely = window * scale
        in_time += max(1.0 - fewer, 0.0) * likely
        if likely < _NOTHING or waiting > furthest:
            return min(max(1.0 - in_time, 0.0), 1.0)
        chance = load / burst * window / servers
        window += chance - (recent[0] if len(recent) == burst else 0.0)
        recent.append(chance)
    msg = "bug: counting has ended"
    raise AssertionError(msg)  # pragma: no cover - it does not


def least_for_bursts(patience: float, load: float, burst: int, share: float) -> int:
    """
    Give the least number of connections with which at most this share of the requests waits for longer than is tolerated.

    Args:
        patience: the wait that is tolerated, in mean holds.
        load: in erlang, all requests of all bursts.
        burst: how many come at a time.
        share: of the requests that may wait for longer, above 0.
    """
    low, step = int(load), max(int(math.sqrt(load * burst) / 4), 1)
    while late_in_bursts(patience, low + step, load, burst) > share:
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if late_in_bursts(patience, middle, load, burst) <= share else (middle, high)
    return high
