"""The answer to how large a pool should be: every figure of it, from load, target and service."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from sqla_poolguard._demand import Demand
from sqla_poolguard._fit import Case
from sqla_poolguard._sizing import deadlock_floor, knee

if TYPE_CHECKING:
    from sqla_poolguard._durations import Durations
    from sqla_poolguard._sizing import Knee, Load, Service, Target, Verdict

__all__ = ["Plan", "Point", "Row", "make_plan"]

_EXAMPLE: Final = 0.4
"""Seconds of the outside call that the sensitivity table shows, where the load has none."""
_BELOW, _ABOVE = 4, 4
"""Sizes of the curve below and above the one that is enough."""


class Row(NamedTuple):
    """A load like ours, with one thing changed."""

    what: str
    hold: float
    """Mean, in seconds."""
    size: int
    """Connections that one pool needs."""
    total: int
    """Those of all pools at the peak."""


class Point(NamedTuple):
    """One point of the curve."""

    size: int
    share: float
    """Of the checkouts, those that wait for longer than the target says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What came out; in connections, unless something else is said."""

    load: Load
    target: Target
    service: Service
    verdict: Verdict
    reason: str
    advice: tuple[str, ...]
    """What helps, the surest first; where it fits, what to watch."""
    rate: float
    """Checkouts per second of one pool."""
    busy: float
    """That one pool has out on average."""
    demand: int
    """That one pool needs for its load."""
    floor: int
    """That one pool needs so as not to deadlock on itself."""
    ceiling: int
    """That one pool may have."""
    size: int
    """Suggested for one pool."""
    wait_share: float
    """Of the checkouts, those that wait for longer than the target says, with that size."""
    total: int
    """That all pools take at the peak, with that size."""
    shared: int
    """That the whole load needs if all pools share: what a pooler needs towards the server."""
    working: float
    """That the server works for at one time on average, at most: those held, less what is spent outside."""
    knee: Knee | None
    curve: tuple[Point, ...]
    sensitivity: tuple[Row, ...]
    simulated: bool
    """Whether the load was played through, because Erlang's formula does not hold for it."""


def make_plan(load: Load, target: Target, service: Service) -> Plan:
    """Size the pools of a service."""
    processes = service.processes
    serving = replace(processes, surge=0, terminating=0).pools

    def demand(rate: float, holds: Durations) -> Demand:
        return Demand(rate, holds, burst=load.burst, wait=target.wait, share=target.share)

    own, floor = demand(load.rate / serving, load.holds), deadlock_floor(load.tasks, load.nesting)
    need = own.least()
    size = max(need, floor)
    shared = max(demand(load.rate, load.holds).least(), deadlock_floor(load.tasks * serving, load.nesting))
    working, edge = load.rate * (load.holds.mean - load.outside), None if service.cores is None else knee(service.cores)
    case = Case(load=load, target=target, service=service, size=size, shared=shared, working=working, knee=edge)
    judgement = case.judge()

    def row(what: str, rate: float, hold: float) -> Row:
        needed = max(demand(rate / serving, load.holds.scaled(hold / load.holds.mean)).least(), floor)
        return Row(what, hold, needed, needed * processes.pools)

    mean, outside = load.holds.mean, load.outside
    other = (
        ("given back before the outside call", mean - outside)
        if outside
        else (
            f"with an outside call of {_EXAMPLE * 1000:g} ms inside the hold",
            mean + _EXAMPLE,
        )
    )
    rows = (
        Row("as it is", mean, size, size * processes.pools),
        row(other[0], load.rate, other[1]),
        row("twice as many checkouts", 2 * load.rate, mean),
    )
    first = max(int(own.erlangs) + 1, need - _BELOW)
    return Plan(
        load=load,
        target=target,
        service=service,
        verdict=judgement.verdict,
        reason=judgement.reason,
        advice=judgement.advice,
        rate=load.rate / serving,
        busy=own.erlangs,
        demand=need,
        floor=floor,
        ceiling=processes.share(service.usable),
        size=size,
        wait_share=own.share(size),
        total=size * processes.pools,
        shared=shared,
        working=working,
        knee=edge,
        curve=tuple(Point(number, own.share(number)) for number in range(first, need + _ABOVE + 1)),
        sensitivity=rows,
        simulated=own.simulated,
    )
