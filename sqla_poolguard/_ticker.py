"""
A beat for each event loop in which connections are out: it wakes the samplers of the loop now and then, by a timer of the loop.

One daemon thread for the process sees when a beat does not come, since its loop is blocked, and by what.
It sleeps while no connection is out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
import threading
import weakref
from collections import deque
from contextvars import Context
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sqla_poolguard._callsite import is_application
from sqla_poolguard._facts import Site

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable

__all__ = ["Beat", "Blocked", "Samples", "Sighting", "Ticker", "lag_of", "ticker"]

_log: Final = logging.getLogger("sqla_poolguard")

PAUSE: Final = 0.1
"""Seconds between two samples, at most."""

_LEAD: Final = 0.0005
"""Seconds by which the thread sleeps less than a pause: where a loop never rests, it then waits for the lock until the next beat, and no longer."""

_WAITS: Final = 0.0002
"""Seconds after which the thread that should be back waits for the interpreter's lock."""

_MAKES_WAY: Final = 0.00005
"""Seconds for which a beat lets go of that lock, so that the thread can take it."""

_SUSPICIOUS: Final = 0.025
_QUIET: Final = 1.0
_LATELY: Final = 5.0
_MOST_BLOCKS: Final = 100


class Samples(Protocol):
    """Who is woken in an event loop."""

    pause: float
    """Seconds between two samples."""

    def sample(self, beat: Beat, blocked: Blocked | None) -> bool:
        """Look at the connections of a loop; False if none is out."""

    def rest(self) -> None:
        """Know that nobody looks any more."""


class Sighting(NamedTuple):
    """What ran in a loop's thread at one moment."""

    at: float
    """On the monotonic clock, in seconds."""
    site: Site | None
    """The innermost line of the application."""
    task: weakref.ref[Task[Any]] | None


class Blocked(NamedTuple):
    """A loop that did not run for a while."""

    seconds: float
    sightings: list[Sighting]
    """What ran in its thread meanwhile, seen now and then."""


class Beat:
    """The beat of one event loop."""

    def __init__(self, loop: AbstractEventLoop, keeper: Ticker) -> None:
        """Make the beat of the running loop."""
        self.loop = loop
        self._keeper = keeper
        self.thread = threading.get_ident()
        self.samplers: weakref.WeakSet[Samples] = weakref.WeakSet()
        self.pause = PAUSE
        """Seconds between two beats."""
        self.lag = 0.0
        """Seconds for which the loop, or the whole process, stood still: nobody's await took so long."""
        self.passed = PAUSE
        """Seconds since the beat before this one, without those in which the loop stood still: what is seen now stands for them."""
        self._beaten_at: float | None = None
        self.latest: Blocked | None = None
        """When it was blocked last, and by whom."""
        self.latest_at = 0.0
        self._lags: deque[tuple[float, float]] = deque(maxlen=64)
        """(when, lag) of some of the last beats."""
        self._due_at = math.inf
        """When the next beat is due, on the monotonic clock."""
        self._stopped_at = -math.inf
        """When the loop was seen stopped last."""
        self._frozen = 0.0
        self._sightings: list[Sighting] = []
        self._busy_at = monotonic()

    def blocked_lately(self) -> tuple[float, Site | None] | None:
        """Tell for how long the loop stood still in the last seconds, and at which line most of that time."""
        if self.latest is None or monotonic() - self.latest_at > _LATELY:
            return None
        sites = [sighting.site for sighting in self.latest.sightings]
        return self.latest.seconds, max(set(sites), key=sites.count)

    def lateness(self) -> float:
        """Tell for which share of the last seconds the loop was late."""
        now = monotonic()
        before = next(((at, lag) for at, lag in self._lags if now - at <= _LATELY), None)
        if before is None or now - before[0] < _LATELY / 8:
            return 0.0
        return min((self.lag - before[1]) / (now - before[0]), 1.0)

    def begin(self) -> None:
        """Have the next beat come, in the running loop; it is nobody's, so it has no request's context."""
        self._due_at = monotonic() + self.pause
        self.loop.call_later(self.pause, self._beat, context=Context())

    def tick(self, now: float, overslept: float) -> bool:
        """See whether the beat has come; in the ticker's thread. False if the loop is closed."""
        if overslept > self.pause:
            self._frozen += overslept
        if not self.loop.is_running():  # stopped, not blocked: whoever runs it may go on with it later
            self._stopped_at = now
            self._sightings.clear()
        elif (
            now - max(self._due_at, self._stopped_at) > _SUSPICIOUS
            and len(self._sightings) < _MOST_BLOCKS
            and overslept <= self.pause
        ):
            self._sightings.append(self._sight(now))
        return not self.loop.is_closed()

    def _sight(self, now: float) -> Sighting:
        """See what runs in the loop's thread just now."""
        frame = sys._current_frames().get(self.thread)
        site = None
        while frame is not None:
            if is_application(frame.f_code.co_filename):
                site = Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
                break
            frame = frame.f_back
        task = None
        with contextlib.suppress(RuntimeError):
            task = asyncio.current_task(self.loop)
        return Sighting(now, site, weakref.ref(task) if task is not None else None)

    def _beat(self) -> None:
        """Let every sampler look; in the loop."""
        if self._keeper.beat_of(self.loop) is not self:  # dropped
            return
        now = monotonic()
        late = now - self._due_at
        if late < -self.pause / 2:  # time runs otherwise in this loop (in a test): one would look at it without end
            self._end()
            return
        lag = late if late > self.pause else 0.0
        self.lag += lag
        self.passed = self.pause if self._beaten_at is None else max(now - self._beaten_at - lag, 0.0)
        self._beaten_at = now
        if not self._lags or now - self._lags[-1][0] >= _LATELY / 16:
            self._lags.append((now, self.lag))
        frozen, self._frozen = self._frozen, 0.0
        stood_still = now - max(self._due_at, self._stopped_at) - frozen
        sightings, self._sightings = self._sightings, []
        blocked = Blocked(stood_still, sightings) if sightings and stood_still > 0 else None
        if blocked is not None:
            self.latest, self.latest_at = blocked, now
        self.begin()  # before anything can fail
        looked = [sampler.sample(self, blocked) for sampler in list(self.samplers)]
        if any(looked):
            self._busy_at = now
        elif now - self._busy_at >= _QUIET:
            self._end()
        if self._keeper.waits(monotonic()):  # last, for the thread sleeps from here on
            sleep(_MAKES_WAY)

    def _end(self) -> None:
        """Come no more; the next checkout begins again."""
        self._keeper.drop(self)
        for sampler in list(self.samplers):
            sampler.rest()


class Ticker:
    """The beats of all loops, and the thread that sees whether they come."""

    def __init__(self) -> None:
        self.enabled = True
        """Whether the thread may run; tests that live in virtual time beat by hand."""
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child: the thread stayed with the parent."""
        self._beats: dict[AbstractEventLoop, Beat] = {}
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None
        self._back_at = math.inf
        """Until when the thread sleeps, on the monotonic clock; infinity while it does not."""
        self._failed = False

    def wake(self, sampler: Samples, loop: AbstractEventLoop) -> Beat:
        """Have a sampler woken in the running loop, until nothing is out there any more."""
        with self._lock:
            beat = self._beats.get(loop)
            if beat is None:
                for closed in [other for other in self._beats if other.is_closed()]:
                    del self._beats[closed]
                beat = Beat(loop, self)
                beat.pause = min(PAUSE, sampler.pause)
                if self.enabled:
                    beat.begin()
                self._beats[loop] = beat
            beat.samplers.add(sampler)
            beat.pause = min(beat.pause, sampler.pause)
            if self.enabled:
                self._awake.set()
                if self._thread is None or not self._thread.is_alive():
                    self._start()
        return beat

    def _start(self) -> None:
        """Start the thread. Where the system has none to give, or Python is shutting down, nobody looks: no checkout fails for it."""
        self._thread = threading.Thread(target=self._run, name="sqla-poolguard", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._thread = None
            if not self._failed:
                self._failed = True
                _log.warning("connections are not looked at: %s", error)

    def waits(self, now: float) -> bool:
        """
        Tell whether the thread waits for the interpreter's lock.

        A loop that never rests lets go of it at each turn, too briefly for a thread that has to wake up first: it may wait for seconds,
        is woken at each turn in vain, and each time that costs the loop some microseconds.
        """
        return now - self._back_at > _WAITS

    def beat_of(self, loop: AbstractEventLoop | None) -> Beat | None:
        """Give the beat of a loop, if it has one."""
        return self._beats.get(loop) if loop is not None else None

    def drop(self, beat: Beat) -> None:
        """Give no beat to a loop any more."""
        with self._lock:
            if self._beats.get(beat.loop) is beat:
                del self._beats[beat.loop]
            if not self._beats:
                self._awake.clear()

    def _run(self) -> None:
        while True:
            self._awake.wait()
            self._tick()

    def _tick(self) -> None:
        """See whether every loop has had its beat; a function, so that the thread holds no loop while it waits for one to begin."""
        beats = list(self._beats.values())
        self._back_at = back_at = monotonic() + min((beat.pause for beat in beats), default=PAUSE) - _LEAD
        sleep(max(back_at - monotonic(), 0.0))
        now, self._back_at = monotonic(), math.inf
        for beat in beats:
            try:
                alive = beat.tick(now, now - back_at)
            except Exception:  # noqa: BLE001 - the thread must live: it serves every loop
                _log.exception("bug: a loop is not looked at any more")
                alive = False
            if not alive:
                self.drop(beat)


ticker: Final = Ticker()
"""The ticker of this process."""


def lag_of(loop: AbstractEventLoop | None) -> Callable[[], float]:
    """Give what tells for how many seconds a loop has been late since it has a beat; 0 where it has none."""
    beat = ticker.beat_of(loop)
    return (lambda: beat.lag) if beat is not None else float
