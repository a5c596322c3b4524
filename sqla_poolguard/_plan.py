"""The answer to how large a pool should be: every figure of it, from load, target and service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from sqla_poolguard._demand import Demand
from sqla_poolguard._fit import Case
from sqla_poolguard._queueing import Traffic
from sqla_poolguard._sizing import deadlock_floor, knee

if TYPE_CHECKING:
    from sqla_poolguard._hold_times import HoldTimes
    from sqla_poolguard._queueing import Share
    from sqla_poolguard._sizing import Knee, Load, Service, Target, Verdict

__all__ = ["Plan", "Point", "Row", "make_plan"]

_EXAMPLE: Final = 0.4
"""Seconds of the outside call that the sensitivity table shows, where the load has none."""
_MOST: Final = 1_600_000
"""Checkouts to play at most so as to be sure of what one pool needs, and likewise all of them if they share and have to."""
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
    known: Share
    """That share with what the load needs, and how well it is known."""
    known_below: Share
    """That share with one connection less than the load needs."""
    played: int
    """Checkouts that were played for these; 0 if none was."""
    certain: bool
    """Whether it is known that so many are enough for the load, and that one less is not."""
    wild: bool
    """Whether it is not because the holds have so long a tail."""
    total: int
    """That all pools take at the peak, with that size."""
    shared: int
    """That the whole load needs if all pools share: what a pooler needs towards the server."""
    shared_certain: bool
    """Whether it is known that so many are enough, and that one less is not; where all fits it is an estimate, and not pasted."""
    working: float
    """That the server works for at one time on average, at most: those held, less what is spent outside."""
    knee: Knee | None
    curve: tuple[Point, ...]
    sensitivity: tuple[Row, ...]
    simulated: bool
    """Whether the load was played through, because no formula holds for it."""
    solved: bool
    """Whether a formula is exact; where it is neither this nor played, formulas bound it."""


def make_plan(load: Load, target: Target, service: Service) -> Plan:
    """Size the pools of a service."""
    processes = service.processes
    serving = processes.steady.pools

    traffic = Traffic(load.holds, burst=load.burst)

    def demand(rate: float, holds: HoldTimes, most: int = 0) -> Demand:
        return Demand(rate, holds, burst=load.burst, wait=target.wait, share=target.share, traffic=traffic, most=most)

    own, floor = demand(load.rate / serving, load.holds, _MOST), deadlock_floor(load.tasks, load.nesting)
    need = own.least()
    size = max(need, floor)
    fits = size * processes.pools <= service.usable
    together = own if serving == 1 else demand(load.rate, load.holds, 0 if fits else _MOST)
    shared_need = need if serving == 1 else together.least()
    shared = max(shared_need, deadlock_floor(load.tasks * serving, load.nesting))
    working, edge = load.rate * (load.holds.mean - load.outside), None if service.cores is None else knee(service.cores)
    judgement = Case(
        load=load,
        target=target,
        service=service,
        need=need,
        size=size,
        shared_need=shared_need,
        shared=shared,
        working=working,
        knee=edge,
        traffic=traffic,
    ).judge()

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
    known = own.known(need)
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
        known=known,
        known_below=own.known(need - 1),
        played=own.played if own.simulated else 0,
        certain=own.is_certain(need),
        wild=own.is_wild,
        total=size * processes.pools,
        shared=shared,
        shared_certain=together.is_certain(shared_need),
        working=working,
        knee=edge,
        curve=_curve(own, need, size),
        sensitivity=rows,
        simulated=own.simulated,
        solved=own.solved,
    )


def _curve(own: Demand, need: int, size: int) -> tuple[Point, ...]:
    """Give the points around what the load needs, and that of the size that is suggested, if that is a larger one."""
    first, edges = max(int(own.erlangs) + 1, need - _BELOW), (own.share(need - 1), own.share(need))
    numbers = list(range(first, need + _ABOVE + 1))
    # the two that matter were played for longer; the others are not to contradict them
    shares = [max(own.look(number), edges[0]) if number < need else min(own.look(number), edges[1]) for number in numbers]
    points = [Point(number, share) for number, share in zip(numbers, shares, strict=True)]
    if size > numbers[-1]:
        points.append(Point(size, min(own.share(size), edges[1])))
    return tuple(points)
