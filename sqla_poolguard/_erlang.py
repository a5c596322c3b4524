"""Erlang's formulas: how likely is a wait, when requests come by chance and ask for one of so many connections."""

from __future__ import annotations

import math

__all__ = ["erlang_b", "erlang_c", "least_servers", "wait_above"]


def erlang_b(servers: int, load: float) -> float:
    """
    Give the probability that all are busy, where nobody waits (Erlang's first formula).

    Source: A. K. Erlang, "Solution of some problems in the theory of probabilities of significance in automatic telephone
    exchanges", 1917. Computed by the recursion B(n) = a B(n-1) / (n + a B(n-1)), which never leaves [0, 1], however large the numbers.

    Args:
        servers: how many there are.
        load: offered, in erlang: arrivals per second times seconds that each holds.
    """
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """
    Give the probability that a request has to wait at all (Erlang's second formula, M/M/c).

    Source: as `erlang_b`; C = B / (1 - (a / c) (1 - B)). It is 1 where the load is as large as the number of servers, or larger.
    """
    return 1.0 if load >= servers else _delayed(servers, load, erlang_b(servers, load))


def wait_above(seconds: float, servers: int, load: float, hold: float) -> float:
    """
    Give the probability that a request waits for longer than some seconds: C exp(-(c - a) t / h).

    Source: L. Kleinrock, Queueing Systems, volume 1, 1975, section 3.5, for first come, first served, random arrivals (Poisson) and
    exponential holds. For other holds and for bursts it is wrong: simulate (`_queueing`).

    Args:
        seconds: 0 for "at all".
        servers: connections.
        load: in erlang.
        hold: mean, in seconds.
    """
    if load >= servers:
        return 1.0
    return erlang_c(servers, load) * math.exp(-(servers - load) * seconds / hold)


def least_servers(load: float, hold: float, seconds: float, share: float) -> int:
    """
    Give the least number of connections with which at most this share of the requests waits for longer than some seconds.

    Args:
        load: in erlang.
        hold: mean, in seconds.
        seconds: the wait that is tolerated.
        share: of the requests that may wait for longer, above 0.
    """
    blocked, servers = 1.0, 0
    while True:
        servers += 1
        blocked = load * blocked / (servers + load * blocked)
        if servers > load and _delayed(servers, load, blocked) * math.exp(-(servers - load) * seconds / hold) <= share:
            return servers


def _delayed(servers: int, load: float, blocked: float) -> float:
    return blocked / (1 - load / servers * (1 - blocked))
