"""Judges a test by the connections that it checked out: who is to be blamed, and who is not."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._awaits import chain_of
from sqla_poolguard._callsite import this_task
from sqla_poolguard._facts import Ending
from sqla_poolguard._reach import keepers
from sqla_poolguard._sight import declared, option_of
from sqla_poolguard._testing.faults import FaultKind, fault_of
from sqla_poolguard._testing.keeping import is_made_by, keeper_of
from sqla_poolguard._testing.mains import is_main
from sqla_poolguard._testing.tasks import is_runner, let_ask, quiesce

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Collection, Iterable, Mapping

    from sqla_poolguard._testing.faults import Fault
    from sqla_poolguard._testing.policy import Policy
    from sqla_poolguard._testing.stays import Owner, Stay

__all__ = ["accuse", "is_worth_keeping", "judge_end", "nested", "suspect_rest", "suspect_tasks"]

_LOST: Final = frozenset({Ending.LEAKED, Ending.RECLAIMED})
_ROUNDS: Final = 2
"""How often what is out gets time to come back: something that goes on for ever checks out meanwhile, and is not waited for for ever."""


def is_worth_keeping(stay: Stay, policy: Policy) -> bool:
    """Tell of a lease that has ended whether there will be something to say of it when its test has."""
    if stay.ending in _LOST or stay.elsewhere or stay.is_cut_off or policy.ledger:
        return True
    account = stay.account
    return (policy.max_hold is not None and stay.charged > policy.max_hold) or (account is not None and account.elsewhere > 0)


def nested(stay: Stay, out: Iterable[Stay], policy: Policy) -> Iterable[Fault]:
    """
    Look at what else the task has that has just checked out.

    Args:
        stay: the checkout.
        out: everything that is out.
        policy: what is demanded of the test.
    """
    most = policy.max_nesting
    if most is None or stay.task is None or policy.allow_hold is not None:
        return
    own = [other for other in out if _is_beside(other, stay)]
    if len(own) > most:
        others = ", ".join(str(other.site) for other in own if other is not stay)
        detail = f"it had {len(own) - 1} already, checked out at {others}; poolguard_max_nesting is {most}"
        yield fault_of(FaultKind.NESTED, stay, detail=detail)


def _is_beside(other: Stay, stay: Stay) -> bool:
    """Tell whether the same test, or the same fixture, has both; a framework may run them all in one task."""
    is_same = other.owner is stay.owner and other.fixture == stay.fixture
    return is_same and other.pool == stay.pool and other.task == stay.task


def suspect_tasks(owner: Owner, policy: Policy, earlier: Collection[Task[Any]]) -> None:
    """
    Look at what tasks of the test hold when its code has ended, before its fixtures do: with its loop they will be gone.

    A fixture may still end them; `judge_end` sees who has.

    Args:
        owner: the test.
        policy: what is demanded of it.
        earlier: tasks that are a fixture's, or were left over.
    """
    let_ask(earlier, policy.quiesce)
    held = [stay for stay in tuple(owner.stays) if _is_in_background(stay, earlier) and not _is_declared(stay, policy)]
    if held:
        quiesce(held, policy.quiesce)
    for stay in held:
        if stay.is_out and stay.holder is not None:
            stay.suspicion = _held_by_task(stay)


def suspect_rest(stays: Iterable[Stay], loop: AbstractEventLoop, policy: Policy) -> None:
    """
    Look at what is out when an event loop is about to end: what comes back from then on has been cut off.

    Args:
        stays: what is out.
        loop: the event loop, which does not run.
        policy: what is demanded of the test that runs.
    """
    held = [stay for stay in stays if stay.loop is loop and _is_suspect(stay) and not _is_declared(stay, policy)]
    if held and not isinstance(sys.exception(), (KeyboardInterrupt, SystemExit)):
        quiesce(held, policy.quiesce)
    for stay in held:
        if stay.is_out:
            stay.suspicion = _fault_of_rest(stay)


def judge_end(owner: Owner, policy: Policy, fixtures: Mapping[Any, Owner]) -> list[Fault]:
    """
    Judge everything, when the test's own fixtures have ended too, or a fixture that outlived tests has.

    Args:
        owner: the test, or the fixture.
        policy: what is demanded.
        fixtures: those that live on, and may keep connections.
    """
    if not owner.stays:
        owner.has_ended = True
        return []
    for stay in _out(owner):
        if policy.allow_hold is not None:
            stay.is_told = True
        elif not policy.expect_leak and (keeper := keeper_of(stay, fixtures)) is not None:
            del owner.stays[stay]
            stay.is_told = owner.has_failed
            stay.owner, stay.taken_from, stay.suspicion = keeper, owner.name, None
            stay.is_lent = is_made_by(keeper, stay.fairy)
            keeper.stays[stay] = None
        elif _is_declared(stay, policy):
            stay.is_told = True
    had_time: dict[Stay, None] = {}
    for _ in range(_ROUNDS):
        if out := [stay for stay in _out(owner) if stay.suspicion is None and stay not in had_time]:
            quiesce(out, policy.quiesce)
            had_time.update(dict.fromkeys(out))
    if _out(owner):
        gc.collect()
    owner.has_ended = True
    return [
        *_suspected(owner),
        *(accuse(stay) for stay in _out(owner) if stay in had_time),
        *_lost(owner),
        *_across_awaits(owner, policy),
        *_overdue(owner, policy),
    ]


def _out(owner: Owner) -> list[Stay]:
    return [stay for stay in tuple(owner.stays) if stay.is_out and not stay.is_told]


def _is_in_background(stay: Stay, earlier: Collection[Task[Any]]) -> bool:
    holder = stay.holder if stay.is_out and not stay.is_told else None
    return holder is not None and holder not in earlier and not is_main(holder)


def _is_suspect(stay: Stay) -> bool:
    holder = stay.holder
    is_open = stay.is_out and not stay.is_told and stay.suspicion is None and not stay.owner.has_ended
    return is_open and (holder is None or not is_main(holder))


def _is_declared(stay: Stay, policy: Policy) -> bool:
    """Tell whether a hold was declared to be right: by the marker, `allow_hold` or the execution option."""
    if policy.allow_hold is not None or stay.declared is not None:
        return True
    holder, fairy = stay.holder, stay.fairy
    if holder is not None and (is_runner(holder) or holder.get_loop().is_running()):
        holder = None
    if holder is not None and declared(holder, fairy, None):
        return True
    return fairy is not None and bool(option_of(holder, fairy, keepers([fairy]).get(id(fairy))))


def _suspected(owner: Owner) -> Iterable[Fault]:
    for stay in tuple(owner.stays):
        if stay.suspicion is not None and not stay.is_told and (stay.is_out or stay.is_cut_off):
            stay.is_told = True
            yield stay.suspicion


def _held_by_task(stay: Stay) -> Fault:
    holder = stay.holder
    chain = chain_of(holder) if holder is not None else None
    current, awaiting = (chain.site(), chain.awaited()) if chain is not None else (None, None)
    return fault_of(FaultKind.IN_BACKGROUND, stay, current, awaiting)


def accuse(stay: Stay) -> Fault:
    """Tell what is wrong with a connection that is out and should not be."""
    stay.is_told = True
    return _fault_of_rest(stay)


def _fault_of_rest(stay: Stay) -> Fault:
    holder = stay.holder
    if holder is not None and holder is not this_task() and not is_main(holder) and not holder.get_loop().is_closed():
        return _held_by_task(stay)
    is_over = stay.task is not None and holder is None
    return fault_of(FaultKind.ORPHANED if is_over else FaultKind.LEFT_OUT, stay)


def _lost(owner: Owner) -> Iterable[Fault]:
    for stay in tuple(owner.stays):
        if stay.ending in _LOST and not stay.is_told:
            stay.is_told = True
            yield fault_of(FaultKind.LEAKED if stay.ending is Ending.LEAKED else FaultKind.ORPHANED, stay)


def _across_awaits(owner: Owner, policy: Policy) -> Iterable[Fault]:
    most = policy.max_foreign_await
    if most is None or policy.allow_hold is not None:
        return
    for stay in tuple(owner.stays):
        if stay.account is None or stay.is_fixtures or stay.is_told:
            continue
        for absence in stay.account.absences:
            if absence.seconds > most and not absence.is_declared:
                stay.is_told = True
                detail = f"for {absence.seconds:.3f} s, {most:g} s are allowed; {stay.account.describe(stay.charged)}"
                fault = fault_of(FaultKind.HELD_ACROSS_AWAIT, stay, absence.site, absence.awaiting, detail)
                yield replace(fault, absent=absence.seconds)


def _overdue(owner: Owner, policy: Policy) -> Iterable[Fault]:
    if policy.max_hold is None or policy.allow_hold is not None:
        return
    for stay in tuple(owner.stays):
        if not stay.is_fixtures and stay.charged > policy.max_hold and not stay.is_told:
            stay.is_told = True
            detail = f"{stay.charged:.3f} s; poolguard_max_hold is {policy.max_hold:g} s"
            yield replace(fault_of(FaultKind.OVERDUE, stay, *stay.wasted_at, detail), absent=stay.charged - policy.max_hold)
