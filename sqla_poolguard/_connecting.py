"""Connects as far as the breaker lets it, reports how that ended, and has the probe made when the database is down."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from asyncio.events import _get_running_loop
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.util.concurrency import greenlet_spawn

from sqla_poolguard._breaker import Breaker
from sqla_poolguard._course import CONNECT
from sqla_poolguard._deadline import Deadline, DeadlinePassed
from sqla_poolguard._outage import Outage, classify
from sqla_poolguard._ticker import lag_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable

    from sqla_poolguard._connects import Connect
    from sqla_poolguard._guard import Guard
    from sqla_poolguard._pool import GuardedPool
    from sqla_poolguard._record import GuardedRecord

__all__ = ["Connecting", "NotNow", "make_breaker"]

_log: Final = logging.getLogger("sqla_poolguard")

_USUAL_WAIT: Final = 1.0
_RIDDEN_OUT: Final = 0.25
"""Share of `max_wait` for which an outage is taken for a blip."""

_NO_ROOM: Final = 0.1
"""Seconds after which to see again whether there is a slot for the probe."""

_T = TypeVar("_T")


class NotNow(Exception):  # noqa: N818 - a signal between rooms of the shell, never seen by a caller
    """Nobody may connect now: who wanted to must wait, as everybody does."""


def make_breaker(guard: Guard, patience: float) -> Breaker:
    """
    Make the breaker of a pool.

    A connect that takes long is an outage only where requests are turned away for it; else only an error is one.

    Args:
        guard: `breaker`, `connect_limit`, `fail_fast` and `max_wait`.
        patience: seconds of `pool_timeout`; infinity for ever; where it is 0 or less nobody can wait for a turn to connect.
    """
    most = math.inf if guard.connect_limit is None or patience <= 0 else guard.connect_limit
    slow = None if guard.fail_fast is True else max(patience, _USUAL_WAIT) / 2
    ridden_out = _ride_out(guard, patience) * _RIDDEN_OUT
    return Breaker(ridden_out, most, random.random, opens=guard.breaker, gently=patience > 0, slow=slow)


def _ride_out(guard: Guard, patience: float) -> float:
    """Give the seconds for which requests wait for the database to come back."""
    return max(min(patience, guard.max_wait or _USUAL_WAIT), 0.0)


class Connecting:
    """What one pool does to get connections, and while it cannot."""

    __slots__ = ("_home", "_pool", "_probe", "_ride_out")

    def __init__(self, pool: GuardedPool, patience: float) -> None:
        """
        Begin with nothing under way.

        Args:
            pool: whose slots, clock, timer and way to connect are used.
            patience: seconds of `pool_timeout`.
        """
        self._pool = pool
        self._ride_out = _ride_out(pool.guard, patience)
        self._probe: tuple[AbstractEventLoop, Task[None], Connect] | None = None
        self._home: AbstractEventLoop | None = None
        """The loop that is to make the next probe."""
        pool._watch.sweep_outage = self.sweep

    def run(self, connect: Connect, work: Callable[[], _T]) -> _T:
        """
        Connect, and report how it ended.

        Args:
            connect: as the breaker has begun it.
            work: does it.

        Raises:
            NotNow: the database could not be reached, which may pass.
        """
        pool, slots, loop = self._pool, self._pool._slots, _get_running_loop()
        if loop is not None:
            pool._watch.sampler.wake(loop)  # should it take too long, it is to be known whether the loop was late
        now = pool._clock()
        pool._watch.trail.go_on(CONNECT, now)
        connect.start(now, lag_of(loop))
        outage: Outage | None = None
        try:
            result = work()
        except BaseException as error:
            outage = classify(error) if isinstance(error, Exception) else None
            if outage is Outage.NONE:
                slots.connected(connect)
            else:
                slots.not_connected(connect, error if outage is not None else None)
            self._look(outage)
            if outage is not None and not outage.unchanged and self._can_wait():
                raise NotNow from error.with_traceback(None)  # nobody sees it; SQLAlchemy's frames and it keep each other alive
            raise
        slots.connected(connect)
        self._look(None)
        return result

    def reconnect(self, work: Callable[[], _T]) -> _T:
        """Connect in a slot that one has, likewise; also raises `NotNow` if nobody may."""
        connect = self._pool._slots.begin()
        if connect is None:
            raise NotNow
        return self.run(connect, work)

    def is_down(self, now: float) -> BaseException | None:
        """
        Tell whether to wait for a connection is a bad bet, since none lives and the database cannot be reached.

        Somebody wants one, and so the probe is armed.

        Returns:
            Why it cannot be reached; None if there is hope.
        """
        slots = self._pool._slots
        breaker = slots.breaker
        self._dig(self._probe)
        breaker.look_again(now, watched=self._home is None or not self._home.is_closed())
        self._wake(now)
        if not breaker.hopeless(now, live=False) and not self._is_hard():
            return None
        return None if self._lives() else breaker.cause(now)

    def gave_up(self) -> BaseException | None:
        """Tell why the database cannot be reached, for one who has waited in vain; None if that is not the reason."""
        breaker, now = self._pool._slots.breaker, self._pool._clock()
        is_down = breaker.down_since is not None or breaker.hopeless(now, live=False)
        return breaker.cause(now) if is_down and not self._lives() else None

    def sweep(self, now: float) -> float:
        """
        Have the probe made if it is due, and turn away who has ridden out an outage in vain.

        Returns:
            When to look again, on the pool's clock; infinity if there is no need.
        """
        slots = self._pool._slots
        breaker = slots.breaker
        if breaker.down_since is None:
            return math.inf
        due = math.inf
        if slots.waiters.queued:
            breaker.wanted(now)
            if not self._lives():
                wait = 0.0 if self._is_hard() else self._ride_out
                self._pool._handover.turn_away(now - wait)
                due = slots.waiters.oldest_since() + wait
        elif slots.retired:
            return math.inf  # nobody will come
        self._begin_probe()
        probe_at = breaker.wake_at
        return min(due, probe_at if probe_at > now else now + _NO_ROOM)

    def forget(self) -> None:
        """Begin anew, in a forked child: the probe is the parent's."""
        self._probe = self._home = None

    def stop(self) -> None:
        """Give up the probe that is under way: the pool is disposed of."""
        probe = self._probe
        if probe is None:
            return
        loop, task, _ = probe
        if loop is _get_running_loop():
            task.cancel()
        else:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(task.cancel)

    def _lives(self) -> bool:
        """Tell whether there is any connection that can be had, or will come back."""
        return any(record.lives() for record in self._pool._slots.filled())

    def _can_wait(self) -> bool:
        return self._pool.guard.breaker and self._ride_out > 0 and _get_running_loop() is not None

    def _is_hard(self) -> bool:
        """Tell whether a person has to mend something before anybody gets in."""
        breaker = self._pool._slots.breaker
        error = breaker.last_error
        return error is not None and breaker.is_fresh and classify(error).unchanged

    def _look(self, outage: Outage | None) -> None:
        """Go on after a connect has ended: who waits may connect now, or is turned away; the probe is armed."""
        pool, breaker = self._pool, self._pool._slots.breaker
        self._tell(outage)
        pool._handover.hand_out()
        if breaker.down_since is not None:
            self._wake(pool._clock())

    def _wake(self, now: float) -> None:
        """Set the timer for the probe, in the running loop."""
        loop = _get_running_loop()
        if self._pool._slots.breaker.down_since is not None and loop is not None:
            self._home = loop
            self._pool._watch.wake_by(min(self._pool._slots.breaker.wake_at, now + self._ride_out), now)

    def _begin_probe(self) -> None:
        loop = _get_running_loop()
        connect = self._pool._slots.reserve_for_probe() if loop is not None else None
        if loop is not None and connect is not None:
            task = asyncio.ensure_future(greenlet_spawn(self._make_probe, connect))
            self._probe = loop, task, connect
            task.add_done_callback(lambda _: self._bury(connect))

    def _dig(self, probe: tuple[AbstractEventLoop, Task[None], Connect] | None) -> None:
        """Bury a probe that has died with its loop."""
        if probe is not None and probe[0].is_closed():
            self._bury(probe[2])

    def _bury(self, connect: Connect) -> None:
        """Note that a probe was cancelled before it began, or died with its loop; its task may come to an end later all the same."""
        if self._pool._slots.finish(connect):
            self._pool._slots.not_connected(connect, None)
            self._pool._handover.free(None)
            self._wake(self._pool._clock())

    def _make_probe(self, connect: Connect) -> None:
        """Connect on nobody's behalf; who waits gets the connection."""
        pool, record = self._pool, None
        try:
            record = self.run(connect, self._in_time)
            pool._slots.fill(record)
        except Exception as error:  # noqa: BLE001 - nobody's: who asks is told, or meets it
            _log.debug("pool %r: the probe failed: %s", pool.name, type(error.__cause__ or error).__name__)
        finally:
            if pool._slots.finish(connect):
                if record is None:
                    pool._handover.drop(connect)
                else:
                    pool._handover.give_back(record)
                self._wake(pool._clock())

    def _in_time(self) -> GuardedRecord:
        """Open a connection, or give up after a while."""
        seconds = self._pool._slots.breaker.probe_timeout(self._pool._clock(), math.inf)
        try:
            with Deadline(seconds):
                return self._pool._create_connection()
        except DeadlinePassed as passed:
            msg = f"no answer in {seconds:.1f} s"
            raise TimeoutError(msg) from passed.__cause__

    def _tell(self, outage: Outage | None) -> None:
        """Tell the log when an outage begins, and when it ends."""
        pool, breaker = self._pool, self._pool._slots.breaker
        down, reporter = breaker.down_since is not None, pool._watch.reporter
        if down == reporter.told_of_outage:
            return
        reporter.told_of_outage = down
        if down:
            _log.warning(
                "pool %r: the database cannot be reached (%s): %s; connections that live go on serving, and connecting is tried in the background",
                pool.name,
                outage or "no answer",
                type(breaker.last_error).__name__,
            )
        else:
            _log.warning("pool %r: the database can be reached again", pool.name)
