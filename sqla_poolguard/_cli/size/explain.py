"""Every formula that was used, with this load's figures in it, and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqla_poolguard._cli.size.quantities import plural, shown_share, shown_time
from sqla_poolguard._cli.size.words import PLAYED, processes_words, room_words

if TYPE_CHECKING:
    from sqla_poolguard._cli.size.given import Inputs
    from sqla_poolguard._plan import Plan

__all__ = ["Formula", "formulas"]


class Formula(NamedTuple):
    """One of them."""

    name: str
    computed: str
    source: str


def formulas(plan: Plan, inputs: Inputs) -> list[Formula]:
    """Give those that this plan rests on."""
    return [*_room(plan, inputs), *_need(plan), *_rest(plan)]


def _room(plan: Plan, inputs: Inputs) -> list[Formula]:
    processes = plan.service.processes
    pools = plural(processes.pools, "pool")
    peak = processes_words(processes) + (f" = {pools}" if processes.engines > 1 else "")
    return [
        Formula("usable connections", room_words(inputs), "PostgreSQL documentation, 20.3.1; InitPostgres() in its source"),
        Formula("processes at the peak", peak, "Kubernetes, Deployments: maxSurge; a terminating pod counts in neither"),
        Formula("ceiling", f"{plan.service.usable} / {pools} = {plan.ceiling} each, rounded down", "arithmetic"),
    ]


def _need(plan: Plan) -> list[Formula]:
    hold, target = plan.load.holds.mean, plan.target
    busy = f"L = lambda W = {plan.rate:.4g}/s x {shown_time(hold)} = {plan.busy:.3g}, with W the time that a connection is held"
    late = f"P(wait > {shown_time(target.wait)}) <= {shown_share(target.share)}"
    found = [Formula("busy on average", busy, "J. D. C. Little, A proof for the queuing formula, 1961")]
    if plan.simulated:
        played = f"the least c with {late} = {plan.demand}: the load was played through, {plan.played:,} checkouts (holds {plan.load.holds.words}; "
        played += f"bursts of {plan.load.burst}); formulas hold for exponential holds only; "
        played += f"with {plan.demand}, from {shown_share(plan.known.low, PLAYED)} to {shown_share(plan.known.high, PLAYED)} wait that long (99 of 100 times)"
        found.append(Formula("needed", played, "J. Kiefer and J. Wolfowitz, On the theory of queues with many servers, 1955"))
    elif not plan.solved:
        words = f"the least c with {late} = {plan.demand}, as if holds were exponential and came in larger bursts, which in heavy traffic is the "
        words += f"same if c_a^2 + c_s^2 is (here bursts of {plan.load.burst}, holds that vary by {plan.load.holds.variation:.3g}); to play so large "
        words += "a load for long enough would take too long"
        found.append(Formula("needed", words, "J. Kollerstrom, 1974; W. Whitt, Approximations for the GI/G/m queue, 1993"))
    elif plan.load.burst > 1:
        words = f"the least c with {late} = {plan.demand}: the chain of the requests that are there, bursts of {plan.load.burst}, a = {plan.busy:.3g}, "
        words += f"h = {shown_time(hold)}, solved. Holds with a longer tail need more: --hold-p50 and --hold-p99"
        found.append(
            Formula("needed", words, "M. L. Chaudhry and J. G. C. Templeton, A First Course in Bulk Queues, 1983, M^X/M/c")
        )
    else:
        formula = f"P(wait > t) = C(c, a) exp(-(c - a) t / h), a = {plan.busy:.3g}, h = {shown_time(hold)}; the least c with {late} = {plan.demand}"
        formula += ". Holds with a longer tail, and bursts, need more: --hold-p50 and --hold-p99, --burst"
        found.append(
            Formula("needed", formula, "A. K. Erlang, 1917; L. Kleinrock, Queueing Systems, volume 1, 1975, section 3.5")
        )
    return found


def _rest(plan: Plan) -> list[Formula]:
    load = plan.load
    floor = f"tasks x (connections of each - 1) + 1 = {load.tasks} x {load.nesting - 1} + 1 = {plan.floor}"
    found = [Formula("deadlock floor", floor, "HikariCP, About Pool Sizing, Pool-locking")]
    if plan.knee is not None:
        words = f"2 x cores + spindles (0) = {plan.knee.classic}; for newer versions 4 x cores = {plan.knee.recent}; "
        words += f"this load: {plan.working:.3g} at a time at most"
        found.append(
            Formula(
                "knee of the server",
                words,
                "PostgreSQL wiki, Number Of Database Connections: a rule of thumb, not tested on SSDs",
            )
        )
    timeout = (
        f"a quarter of the deadline, {shown_time(plan.target.deadline)} / 4, and no less than twice the wait that is tolerated"
    )
    shared = f"the same formula for the whole load in one line = {plan.shared}"
    return [
        *found,
        Formula("needed if all share", shared, "as needed"),
        Formula(
            "pool_timeout",
            f"{timeout} = {shown_time(plan.target.pool_timeout)}",
            "who has waited longer has too little time left for the work",
        ),
    ]
