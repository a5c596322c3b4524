"""Runs one workload with all its rivals: block by block, each in turn, the order another in each round."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks import bytecodes
from benchmarks.figures import Series, timed
from benchmarks.rivals import RIVALS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from benchmarks.workload import Setting, Workload

__all__ = ["label", "run"]


@dataclass(slots=True)
class _Contestant:
    ready: Callable[[], Awaitable[Any]]
    run: Callable[[Any, int], Awaitable[Sequence[float] | None]]
    done: Callable[[Any], Awaitable[None]]
    series: Series
    counted: bool
    subject: Any = None


def label(rival: str, size: int = 0) -> str:
    """Name a rival's series."""
    return f"{rival} @ {size:,}" if size else rival


async def run(workload: Workload, setting: Setting, rounds: int) -> dict[str, Series]:
    """Run a workload with everybody who can; return their series by name."""
    found: dict[str, Series] = {}
    contestants: list[_Contestant] = []
    for name in workload.rivals:
        rival = RIVALS[name]
        for size in workload.sizes or (0,):
            series = found[label(name, size)] = Series(note=rival.missing)
            if series.note is None:
                place = replace(setting, size=size)
                contestants.append(
                    _Contestant(
                        lambda rival=rival, place=place: workload.ready(rival, place),  # type: ignore[misc]
                        workload.run,
                        workload.done,
                        series,
                        workload.counted and bytecodes.COUNTS,
                    )
                )
    for name, make in workload.more:
        found[name] = Series(note=None if make else "not installed")
        if make is not None:
            subject, do, close = await make(setting)
            contestants.append(_Contestant(_already(subject), do, _closing(close), found[name], counted=False))
    await (_fresh if workload.fresh else _standing)(workload, contestants, rounds)
    return found


async def _fresh(workload: Workload, contestants: list[_Contestant], rounds: int) -> None:
    """Give each block a new pool."""
    for number in range(rounds):
        for who in _in_turn(contestants, number):
            subject = await who.ready()
            async with _quiet():
                block = await timed(workload.operations, lambda who=who, subject=subject: who.run(subject, workload.operations))  # type: ignore[misc]
            await who.done(subject)
            who.series.blocks.append(block.figures())


async def _standing(workload: Workload, contestants: list[_Contestant], rounds: int) -> None:
    """Let all blocks of a rival use one pool."""
    for who in contestants:
        who.subject = await who.ready()
        await who.run(who.subject, workload.operations)
    for number in range(rounds):
        async with _quiet(collect=number % 25 == 0 or workload.operations > 1_000):
            for who in _in_turn(contestants, number):
                block = await timed(workload.operations, lambda who=who: who.run(who.subject, workload.operations))  # type: ignore[misc]
                who.series.blocks.append(block.figures())
    for who in contestants:
        if who.counted:
            who.series.counts["bytecodes"] = await bytecodes.total(workload, who.subject)
        await who.done(who.subject)


def _in_turn(contestants: list[_Contestant], number: int) -> list[_Contestant]:
    """Begin with another one in each round, and go backwards in every second one."""
    first = number % len(contestants) if contestants else 0
    order = contestants[first:] + contestants[:first]
    return order[::-1] if number % 2 else order


@contextlib.asynccontextmanager
async def _quiet(*, collect: bool = True) -> AsyncIterator[None]:
    """Keep the garbage collector out of the measurement, for everybody alike."""
    if collect:
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _already(subject: Any) -> Callable[[], Awaitable[Any]]:
    async def ready() -> Any:
        return subject

    return ready


def _closing(close: Callable[[], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def done(_subject: Any) -> None:
        await close()

    return done
