"""Does what the load needs fit into what the server has; and if not, what is it that has to change?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from sqla_poolguard._demand import Demand
from sqla_poolguard._sizing import Verdict, deadlock_floor

if TYPE_CHECKING:
    from sqla_poolguard._durations import Durations
    from sqla_poolguard._sizing import Knee, Load, Service, Target

__all__ = ["Case", "Judgement"]


class Judgement(NamedTuple):
    """A verdict, the figures it rests on, and what helps, the surest first."""

    verdict: Verdict
    reason: str
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is to be judged: what is asked, what is demanded, what there is; and what has been computed of it."""

    load: Load
    target: Target
    service: Service
    size: int
    """Connections that each pool needs."""
    shared: int
    """Connections that all need together, if they share."""
    working: float
    """Mean number of connections that the server works for at one time."""
    knee: Knee | None

    def judge(self) -> Judgement:
        """Give the verdict."""
        pools, usable = self.service.processes.pools, self.service.usable
        if self.knee is not None and self.working > self.knee.recent:
            return self._overloaded(self.knee)
        if self.size * pools <= usable:
            return Judgement(
                Verdict.FITS,
                f"{_pools(pools)} of {self.size} take {self.size * pools} of {usable} usable connections",
                self._notes(),
            )
        asked = f"{_pools(pools)} of {self.size} need {self.size * pools} connections, and {usable} are usable"
        if self.load.outside and self._released() * pools <= usable:
            reason = (
                f"{asked}; of a hold of {_time(self.load.holds.mean)}, {_time(self.load.outside)} are spent outside the database"
            )
            return Judgement(Verdict.HOLD_TOO_LONG, reason, (self._release(), *self._shorter()))
        if self.shared > usable:
            reason = f"{asked}; even if all of them shared, they would need {self.shared}"
            return Judgement(
                Verdict.HOLD_TOO_LONG, reason, (*self._nested(), *self._outside(), *self._shorter(), *self._larger())
            )
        return self._fewer(asked) or Judgement(
            Verdict.NEEDS_POOLER,
            f"{asked}; if all of them share, {self.shared} are enough",
            ("put PgBouncer between, in transaction mode", *self._nested(), *self._outside()),
        )

    def _overloaded(self, knee: Knee) -> Judgement:
        reason = (
            f"the server would have to work for {self.working:.1f} connections at a time on average, and its cores do not get "
        )
        reason += f"more done with more than {knee.recent} (2 x cores: {knee.classic})"
        faster = "make the statements faster or fewer, or give the server more cores: more connections only take turns; "
        faster += "what is spent on the network or in your own code is not the server's: count it as outside"
        return Judgement(Verdict.HOLD_TOO_LONG, reason, (faster, *self._outside()))

    def _fewer(self, asked: str) -> Judgement | None:
        """Judge whether fewer pools would do: without what a rollout adds, or with at least half as many."""
        processes = self.service.processes
        serving = replace(processes, surge=0, terminating=0)
        if self.size * serving.pools <= self.service.usable:
            reason = f"{asked}; without the replicas that a rollout adds, {serving.pools} pools take {self.size * serving.pools}"
            slower = "roll out without surge, one replica at a time, and shorten what replicas do after they were told to stop"
            return Judgement(Verdict.TOO_MANY_PROCESSES, reason, (slower, *self._outside()))
        low, high = 0, serving.pools
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._size_in(middle) * middle <= self.service.usable else (low, middle)
        if 2 * low < serving.pools:
            return None
        each = self._size_in(low)
        reason = f"{asked}; {_pools(low)} of {each} would take {low * each}"
        fewer = f"run at most {low} pools at the peak, rollouts included (there are {processes.pools}): each larger, in all fewer"
        return Judgement(Verdict.TOO_MANY_PROCESSES, reason, (fewer, "or put PgBouncer between", *self._outside()))

    def _size_in(self, pools: int) -> int:
        """Give what each needs if there are so many."""
        serving = replace(self.service.processes, surge=0, terminating=0).pools
        floor = deadlock_floor(-(-self.load.tasks * serving // pools), self.load.nesting)
        return max(self._demand(self.load.rate / pools, self.load.holds).least(), floor)

    def _released(self) -> int:
        """Give what each needs if connections are given back before what is awaited outside the database."""
        inside = self.load.holds.scaled(1 - self.load.outside / self.load.holds.mean)
        own = self._demand(self._rate, inside).least()
        return max(own, deadlock_floor(self.load.tasks, self.load.nesting))

    def _demand(self, rate: float, holds: Durations) -> Demand:
        return Demand(rate, holds, burst=self.load.burst, wait=self.target.wait, share=self.target.share)

    @property
    def _rate(self) -> float:
        return self.load.rate / replace(self.service.processes, surge=0, terminating=0).pools

    def _release(self) -> str:
        return f"give the connection back before the outside call, as with release(session): {self._released()} for each pool"

    def _outside(self) -> tuple[str, ...]:
        return (self._release(),) if self.load.outside else ()

    def _shorter(self) -> tuple[str, ...]:
        room = self.service.processes.share(self.service.usable)
        if room < max(1, deadlock_floor(self.load.tasks, self.load.nesting)):
            return ()
        longest = self._demand(self._rate, self.load.holds).longest_hold(room)
        return (f"hold for {_time(longest)} on average at most: then {room} for each pool are enough",) if longest else ()

    def _nested(self) -> tuple[str, ...]:
        if self.load.nesting == 1:
            return ()
        return (
            f"do not check out a second connection while holding one: {self.load.tasks} tasks with {self.load.nesting} each can deadlock",
        )

    def _larger(self) -> tuple[str, ...]:
        return (f"or a server with room for {self.shared} connections, and with the cores to work for them",)

    def _notes(self) -> tuple[str, ...]:
        if self.knee is None or self.working <= self.knee.classic:
            return ()
        return (
            f"the server works for {self.working:.1f} connections at a time, more than 2 x cores ({self.knee.classic}): it is near its knee",
        )


def _pools(count: int) -> str:
    return "1 pool" if count == 1 else f"{count} pools"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s"
