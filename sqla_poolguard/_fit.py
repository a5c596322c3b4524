"""Does what the load needs fit into what the server has; and if not, what is it that has to change?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from sqla_poolguard._budget import Bound
from sqla_poolguard._demand import Demand
from sqla_poolguard._sizing import Verdict, deadlock_floor

if TYPE_CHECKING:
    from sqla_poolguard._hold_times import HoldTimes
    from sqla_poolguard._queueing import Traffic
    from sqla_poolguard._sizing import Knee, Load, Service, Target

__all__ = ["Case", "Judgement"]

_NONE_LEFT: Final = {
    Bound.SERVER: ": others, and what is kept free, take all that max_connections leaves",
    Bound.ROLE: ": others of the same role take all that its limit leaves",
    Bound.DATABASE: ": others take all that the limit of the database leaves",
}
_NONE_ALLOWED: Final = {Bound.ROLE: ": the limit of the role is 0", Bound.DATABASE: ": the limit of the database is 0"}
_RAISE: Final = {Bound.ROLE: "ALTER ROLE … CONNECTION LIMIT", Bound.DATABASE: "ALTER DATABASE … CONNECTION LIMIT"}


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
    need: int
    """Connections that each pool needs for its load."""
    size: int
    """Connections that each pool needs, also so as not to deadlock on itself."""
    shared_need: int
    """Connections that all need together for the load, if they share."""
    shared: int
    """Likewise, also so as not to deadlock."""
    working: float
    """Mean number of connections that the server works for at one time."""
    knee: Knee | None
    traffic: Traffic

    def judge(self) -> Judgement:
        """Give the verdict."""
        pools, usable = self.service.processes.pools, self.service.usable
        if not usable:
            return self._no_room()
        if self.knee is not None and self.working > self.knee.recent:
            return self._overloaded(self.knee)
        if self.size * pools <= usable:
            return Judgement(
                Verdict.FITS,
                f"{_take(pools, self.size)} of {usable} usable connections",
                self._notes(),
            )
        bound = self.service.bound
        asked = f"{_need(pools, self.size)} connections, and {usable} are usable"
        asked += f" by the limit of the {bound}" if bound in _RAISE else ""
        judged = self._too_large(asked)
        return judged._replace(advice=(*self._raised(), *judged.advice))

    def _too_large(self, asked: str) -> Judgement:
        """Judge what does not fit."""
        pools, usable = self.service.processes.pools, self.service.usable
        if self.size > self.need and (self.need * pools <= usable or self.shared_need <= usable < self.shared):
            return self._too_nested(asked)
        return self._too_many(asked)

    def _too_many(self, asked: str) -> Judgement:
        """Judge what the load itself needs more of than there is."""
        pools, usable = self.service.processes.pools, self.service.usable
        if self.load.outside and self._released * pools <= usable:
            reason = (
                f"{asked}; of a hold of {_time(self.load.holds.mean)}, {_time(self.load.outside)} are spent outside the database"
            )
            return Judgement(Verdict.HOLD_TOO_LONG, reason, (self._release(), *self._shorter()))
        if self.shared > usable:
            reason = f"{asked}; even if all of them shared, they would need {self.shared}" if pools > 1 else asked
            return Judgement(
                Verdict.HOLD_TOO_LONG, reason, (*self._outside(), *self._shorter(), *self._nested(), *self._larger())
            )
        return self._fewer(asked) or Judgement(
            Verdict.NEEDS_POOLER,
            f"{asked}; if all of them share, {self.shared} are enough",
            ("put PgBouncer between, in transaction mode", *self._nested(), *self._outside()),
        )

    def _no_room(self) -> Judgement:
        """Judge where no load would fit: that is no matter of the pools."""
        bound = self.service.bound
        why = (_NONE_ALLOWED if self.service.allowed == 0 and bound in _NONE_ALLOWED else _NONE_LEFT)[bound]
        reason = f"{_need(self.service.processes.pools, self.size)} connections, and none is usable{why}"
        if bound in _RAISE:
            return Judgement(Verdict.NO_ROOM, reason, (f"raise the limit: {_RAISE[bound]}",))
        more = "raise max_connections, or have the others take fewer (--others, --headroom)"
        return Judgement(Verdict.NO_ROOM, reason, (more,))

    def _raised(self) -> tuple[str, ...]:
        """Name the limit that binds, where it is not the server's, and how far that would help."""
        bound, without, total = self.service.bound, self.service.without, self.size * self.service.processes.pools
        if bound not in _RAISE:
            return ()
        words = f"raise the limit of the {bound} by {total - self.service.usable}: {_RAISE[bound]}"
        if without is not None and without < total:
            words = f"raise the limit of the {bound}: {_RAISE[bound]}; without it {without} would be usable"
        return (words,)

    def _too_nested(self, asked: str) -> Judgement:
        """Judge where it is the deadlock floor that has no room, however short holds are."""
        load, pools, usable = self.load, self.service.processes.pools, self.service.usable
        reason = f"{asked}; {load.tasks} tasks with {load.nesting} connections each deadlock with less than {self.size}, however short the holds; "
        if self.need * pools <= usable:
            reason += f"without nesting, {_need(pools, self.need)}"
        else:
            reason += (
                f"if all shared, they would need {self.shared} so as not to deadlock, and without nesting {self.shared_need}"
            )
        fitting = max((self.service.processes.share(usable) - 1) // (load.nesting - 1), 0)
        fewer = f"or let at most {fitting} tasks of a process nest at a time, as with an asyncio.Semaphore"
        helps = fitting > 0 and self.need <= self.service.processes.share(usable)
        return Judgement(Verdict.NESTED, reason, (*self._nested(), *((fewer,) if helps else ())))

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
        processes, serving = self.service.processes, self.service.processes.steady
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
        reason = f"{asked}; {low} of {each} would do, with {low * each}"
        fewer = f"run at most {low} pools at the peak, rollouts included (there are {processes.pools}), of {each} each"
        return Judgement(Verdict.TOO_MANY_PROCESSES, reason, (fewer, "or put PgBouncer between", *self._outside()))

    def _size_in(self, pools: int) -> int:
        """Give what each needs if there are so many."""
        serving = self.service.processes.steady.pools
        floor = deadlock_floor(-(-self.load.tasks * serving // pools), self.load.nesting)
        return max(self._demand(self.load.rate / pools, self.load.holds).least(), floor)

    @cached_property
    def _released(self) -> int:
        """Give what each needs if connections are given back before what is awaited outside the database."""
        inside = self.load.holds.scaled(1 - self.load.outside / self.load.holds.mean)
        own = self._demand(self._rate, inside).least()
        return max(own, deadlock_floor(self.load.tasks, self.load.nesting))

    def _demand(self, rate: float, holds: HoldTimes) -> Demand:
        """Give what is likely: it judges, and is not suggested."""
        target = self.target
        return Demand(rate, holds, burst=self.load.burst, wait=target.wait, share=target.share, traffic=self.traffic, most=0)

    @property
    def _rate(self) -> float:
        return self.load.rate / self.service.processes.steady.pools

    def _release(self) -> str:
        return f"give the connection back before the outside call, as with release(session): {self._released} for each pool"

    def _outside(self) -> tuple[str, ...]:
        return (self._release(),) if self.load.outside else ()

    def _shorter(self) -> tuple[str, ...]:
        room, usable = self.service.processes.share(self.service.usable), self.service.usable
        if not room and self.load.nesting == 1:
            longest = self._demand(self.load.rate, self.load.holds).longest_hold(usable)
            together = f"hold for {_time(longest)} on average at most, and have all pools share {usable} connections (PgBouncer)"
            return (together,) if longest else ()
        if room < deadlock_floor(self.load.tasks, self.load.nesting):
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
        if self.service.without is not None and self.service.without >= self.shared:
            return ()  # the server has room: it is a limit of the role or the database that binds
        return (f"a server with room for {self.shared} connections, and with the cores to work for them",)

    def _notes(self) -> tuple[str, ...]:
        if self.knee is None or self.working <= self.knee.classic:
            return ()
        return (
            f"the server works for {self.working:.1f} connections at a time, more than 2 x cores ({self.knee.classic}): it is near its knee",
        )


def _take(pools: int, size: int) -> str:
    return f"1 pool of {size} takes {size}" if pools == 1 else f"{pools} pools of {size} take {pools * size}"


def _need(pools: int, size: int) -> str:
    return f"1 pool of {size} needs {size}" if pools == 1 else f"{pools} pools of {size} need {pools * size}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s"
