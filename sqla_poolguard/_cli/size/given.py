"""What is known before anything is computed: what was given, what was measured, and what is usual for the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NoReturn

from sqla_poolguard._budget import Others, Processes, ServerLimits
from sqla_poolguard._cli.size.trouble import SizeError
from sqla_poolguard._cli.surge import surge_of
from sqla_poolguard._hold_times import Exponential, Lognormal
from sqla_poolguard._sizing import Load, Service, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqla_poolguard._cli.size.measured import Measured
    from sqla_poolguard._hold_times import HoldTimes

__all__ = ["Given", "Inputs", "gather"]

_LIMITS: Final = ("max_connections", "superuser_reserved", "reserved", "role_limit", "database_limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was given on the command line, or answered; None where nothing was."""

    rate: float | None = None
    hold: float | None = None
    hold_p50: float | None = None
    hold_p99: float | None = None
    outside: float | None = None
    burst: int = 1
    nesting: int = 1
    tasks: int | None = None
    wait: float = 0.05
    late: float = 0.01
    deadline: float = 4.0
    max_connections: int | None = None
    superuser_reserved: int | None = None
    reserved: int | None = None
    role_limit: int | None = None
    database_limit: int | None = None
    others: int | None = None
    headroom: int = 5
    cores: int | None = None
    replicas: int = 1
    workers: int = 1
    surge: str = "0"
    terminating: int = 0
    more_processes: int = 0
    engines: int = 1

    @property
    def is_empty(self) -> bool:
        """Whether neither load nor server was given."""
        return all(each is None for each in (self.rate, self.hold, self.hold_p50, self.hold_p99, self.max_connections))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a plan is made of."""

    load: Load
    target: Target
    service: Service
    limits: ServerLimits
    others: Others
    headroom: int
    measured: tuple[Measured, ...]


def gather(given: Given, measured: Sequence[Measured]) -> Inputs:
    """
    Put together what was given and what was measured; what was given wins.

    Raises:
        SizeError: something is missing, or cannot be.
    """
    try:
        processes = _processes(given)
        limits = _limits(given, measured)
        others = _others(given, measured)
        left = limits.left(others, given.headroom)
        return Inputs(
            load=_load(given, measured, processes),
            target=Target(wait=given.wait, share=given.late, deadline=given.deadline),
            service=Service(
                processes=processes,
                usable=left.slots,
                bound=left.bound,
                allowed=limits.allowed(left.bound),
                without=limits.without(left.bound).left(others, given.headroom).slots,
                cores=given.cores,
            ),
            limits=limits,
            others=others,
            headroom=given.headroom,
            measured=tuple(measured),
        )
    except ValueError as error:
        raise SizeError(str(error)) from error


def _processes(given: Given) -> Processes:
    return Processes(
        replicas=given.replicas,
        workers=given.workers,
        surge=surge_of(given.surge, given.replicas),
        terminating=given.terminating,
        more=given.more_processes,
        engines=given.engines,
    )


def _limits(given: Given, measured: Sequence[Measured]) -> ServerLimits:
    """Take the limits that were measured, and of them what was given; or make them of what was given."""
    told = {name: value for name in _LIMITS if (value := getattr(given, name)) is not None}
    found = next((each.limits for each in measured if each.limits is not None), None)
    if found is not None:
        return replace(found, **told)
    return ServerLimits(**told) if "max_connections" in told else _missing("--max-connections", "--from postgresql://…")


def _others(given: Given, measured: Sequence[Measured]) -> Others:
    """Take what was counted; the number that was given is that of the whole server."""
    found = next((each.others for each in measured if each.others is not None), Others())
    return found if given.others is None else replace(found, server=given.others)


def _load(given: Given, measured: Sequence[Measured], processes: Processes) -> Load:
    source = next((each for each in measured if each.rate is not None), None)
    rate, holds, outside = given.rate, _holds(given), given.outside
    if source is not None and source.rate is not None:
        # one process was looked at: the others are asked for as much
        serving = processes.replicas * processes.workers + processes.more
        rate = rate if rate is not None else source.rate * (serving * processes.engines if source.of_one else 1)
        if holds is None:
            holds, outside = source.holds, source.outside if outside is None else outside
            if holds is None and source.lacks:
                raise SizeError(source.lacks)
    if given.nesting > 1 and given.tasks is None:
        msg = "--nesting needs --tasks: how many tasks of one process nest at the same time at most"
        raise SizeError(msg)
    return Load(
        rate=rate if rate is not None else _missing("--rate", "--from http://… (a debug page, metrics or a Prometheus)"),
        holds=holds if holds is not None else _missing("--hold", "--from http://… (a debug page, metrics or a Prometheus)"),
        outside=outside or 0.0,
        burst=given.burst,
        nesting=given.nesting,
        tasks=given.tasks or 1,
    )


def _holds(given: Given) -> HoldTimes | None:
    if (given.hold_p50 is None) != (given.hold_p99 is None):
        msg = "--hold-p50 and --hold-p99 go together"
        raise SizeError(msg)
    if given.hold is not None and given.hold_p50 is not None:
        msg = "--hold is the mean; give either that, or --hold-p50 and --hold-p99"
        raise SizeError(msg)
    if given.hold_p50 is not None and given.hold_p99 is not None:
        return Lognormal(given.hold_p50, given.hold_p99)
    if given.hold is None:
        return None
    if given.hold <= 0:
        msg = f"hold={given.hold:g} is not allowed; allowed: above 0"
        raise SizeError(msg)
    return Exponential(given.hold)


def _missing(option: str, instead: str) -> NoReturn:
    msg = f"{option} is missing; give it, or {instead}. In a terminal, `poolguard size` without options asks"
    raise SizeError(msg)
