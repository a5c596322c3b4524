"""May the pool connect just now? The breaker on connecting, and no more than that; time and chance are passed in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from sqla_poolguard._connects import BreakerState, Connect
from sqla_poolguard._facts import Downtime
from sqla_poolguard._outage import keepsake

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Breaker"]

_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 2.0
_PROBE_TIMEOUT: Final = 2.0
_PROBE_SHARE: Final = 1 / 16
_USUAL: Final = 0.1
_WEIGHT: Final = 0.3
_LINGER: Final = 30.0
_OVERDUE: Final = 0.1
"""Seconds after which a probe that was due is not going to be made: an event loop that is alive is not so late."""


class Breaker:
    """
    Decides about connects, not about checkouts: connections that live go on serving whatever it says.

    While it is closed requests may connect, at most `limit` at a time. The first failure opens it.
    Then no request is tied to a connect any more: a probe, one at a time and after a pause of full jitter, finds out
    when the database is back. As long as it is not closed, a probe is under way or armed.
    A connect that was begun before it last closed is no news when it fails: it may have hung for all of the outage.

    The figures are the simulation's (after 30 s of outage back in 1.2 s, at worst 2.8 s), except where said.
    """

    def __init__(
        self,
        patience: float,
        most: float,
        jitter: Callable[[], float],
        *,
        opens: bool = True,
        gently: bool = True,
        slow: float | None = None,
    ) -> None:
        """
        Make a closed one.

        Args:
            patience: seconds of outage that waiters ride out, a fourth of `max_wait`.
            most: connects that may be under way at one time; infinity for any number.
            jitter: gives a random number from 0 to 1, 1 excluded.
            opens: False for one that only counts connects, and never says no for another reason.
            gently: whether to begin with one connect at a time after an outage.
            slow: seconds after which a connect without an answer is an outage; default: `patience`, thrice that before the first success.
        """
        self._patience = patience
        self._most = most
        self._jitter = jitter
        self.opens = opens
        self._first = 1 if gently else most
        self._slow = slow
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child: what is under way is the parent's."""
        self._connects: dict[Connect, None] = {}
        self._probe: Connect | None = None
        self._known = False
        self._succeeded_at = self._failed_at = self._wanted_at = self._watched_since = -math.inf
        self.usual = _USUAL
        """Seconds that a connect takes that succeeds."""
        self._shut(self._most)

    def _shut(self, limit: float) -> None:
        """Close it; what is still under way from before is counted no more."""
        self._connects.clear()
        self._probe = None
        self._steps = 0
        self.state = BreakerState.CLOSED
        self.limit: float = limit
        """Connects that may be under way: after an outage 1, and 1 more for each success; 0 while open; 1, the probe, while half open."""
        self.probe_at = math.inf
        """When the next probe is due, or the one under way was, on the pool's clock; infinity while closed."""
        self.down_since: float | None = None
        """When the first connect of this outage to fail was begun, but not before one succeeded; None while closed."""
        self.fails = 0
        """Connects that failed in this outage."""
        self.last_error: BaseException | None = None
        """Why the last one failed; None while closed."""

    def __repr__(self) -> str:
        return f"<Breaker {self.state}, {self.under_way} of {self.limit} connects under way, {self.fails} failed>"

    @property
    def under_way(self) -> int:
        """Connects that are under way; not those from before it last closed."""
        return len(self._connects)

    @property
    def is_busy(self) -> bool:
        """Whether it is not closed, or a connect is under way."""
        return bool(self._connects) or self.state is not BreakerState.CLOSED

    @property
    def wake_at(self) -> float:
        """When a timer is to ask `begin_probe()`; infinity if none is needed, or if nothing was wanted for 30 s."""
        due = self.probe_at if self.state is BreakerState.OPEN else math.inf
        return due if due <= self._wanted_at + _LINGER else math.inf

    def wanted(self, now: float) -> None:
        """Note that somebody wants a connection that is not there, when it comes and as long as it waits; see `wake_at` afterwards."""
        self._wanted_at = now

    def look_again(self, now: float, *, watched: bool = True) -> None:
        """
        Note that somebody wants a connection. If nobody has made the probe that was due, what is known of the outage is old.

        So it is where the probe has rested, or every request has a loop of its own, which ends before the probe is made.
        Then the outage begins anew for those who come now: they wait, and what the probe tells counts.

        Args:
            now: on the pool's clock.
            watched: whether the loop still lives that was to make the probe; it may be about to.
        """
        self.wanted(now)
        if self.state is BreakerState.OPEN and now > self.probe_at + (_OVERDUE if watched else 0.0):
            self._watched_since = self.probe_at = now

    @property
    def is_fresh(self) -> bool:
        """Whether the last error is of the time since somebody has looked."""
        return self._failed_at >= self._watched_since

    def may_begin(self) -> bool:
        """Tell whether a request may connect."""
        return self.state is BreakerState.CLOSED and len(self._connects) < self.limit

    def begin(self, now: float) -> Connect | None:
        """
        Begin a connect on behalf of a request; it must be reported as succeeded, failed or abandoned.

        Returns:
            None if it is not allowed to.
        """
        if not self.may_begin():
            return None
        self._wanted_at = now
        return self._begin(now)

    def begin_probe(self, now: float) -> Connect | None:
        """Begin the probe likewise; None if none is due."""
        if self.state is not BreakerState.OPEN or now < self.probe_at:
            return None
        self.state, self.limit = BreakerState.HALF_OPEN, 1
        self._probe = self._begin(now)
        return self._probe

    def _begin(self, now: float) -> Connect:
        connect = Connect(now)
        self._connects[connect] = None
        return connect

    def succeeded(self, connect: Connect, now: float) -> None:
        """Note that the database is there; also where a connect failed for another reason, so that requests meet that error."""
        self._connects.pop(connect, None)
        # one that hung must not make hanging usual
        self.usual += _WEIGHT * (min(now - connect.since, self._long()) - self.usual)
        self._known = True
        self._succeeded_at = now
        if self.state is BreakerState.CLOSED:
            self.limit = min(self._most, self.limit + 1)
        else:
            self._shut(self._first)

    def failed(self, connect: Connect, now: float, error: BaseException) -> None:
        """Note that the database could not be reached; three connects that fail together lengthen the pause once."""
        if connect not in self._connects:
            return
        del self._connects[connect]
        if not self.opens:
            return
        self.fails += 1
        self.last_error, self._failed_at = keepsake(error), now
        if self.down_since is None:
            self.down_since = max(connect.since, self._succeeded_at)
            self._wanted_at = now
            self._arm(now, self._steps + 1)
        elif connect is self._probe:
            self._arm(now, self._steps + 1)

    def abandoned(self, connect: Connect, now: float) -> None:
        """
        Note that a connect was cancelled, which says nothing of the database.

        Unless it had taken too long already: a connect that hangs ends so, when its caller has had enough.
        """
        if connect not in self._connects:
            return
        age = connect.age(now)
        if connect is self._probe:
            del self._connects[connect]
            self._arm(now, self._steps)
        elif age > self._long():
            self.failed(connect, now, TimeoutError(f"connecting was given up after {age:.1f} s"))
        else:
            del self._connects[connect]

    def returned(self, connect: Connect) -> None:
        """Note that a connect was never tried."""
        self._connects.pop(connect, None)

    def _arm(self, now: float, steps: int) -> None:
        """Open, with the next probe after a pause of full jitter."""
        self._steps = steps
        self._probe = None
        self.state, self.limit = BreakerState.OPEN, 0
        longest = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(steps - 1, 16))
        self.probe_at = now + longest * self._jitter()

    def hopeless(self, now: float, *, live: bool) -> bool:
        """Tell whether waiting for a connection is a bad bet; never if any is `live`, for it comes back some time."""
        if live or not self.opens:
            return False
        if self.down_since is not None:
            return now - max(self.down_since, self._watched_since) >= self._patience
        return self._age(now) > self._long()

    def eta(self, now: float) -> float:
        """Estimate the seconds until a connection could be there, if none lives; it knows nothing of how long outages last."""
        if self.state is BreakerState.OPEN:
            return max(0.0, self.probe_at - now) + self.usual
        age = self._age(now, self._probe)
        # what has run for long will run for longer
        return self.usual if age <= 3 * self.usual else age

    def probe_timeout(self, now: float, connect_timeout: float) -> float:
        """
        Bound the probe: 2 s, which catches a packet that is sent again after 1 s, and the driver's own timeout.

        More where connects usually take longer, and a sixteenth of a long outage (our own figure): else a database
        whose connects have become slow would never be reached again.
        """
        lasted = 0.0 if self.down_since is None else now - self.down_since
        return min(connect_timeout, max(_PROBE_TIMEOUT, 3 * self.usual, lasted * _PROBE_SHARE))

    def cause(self, now: float) -> BaseException:
        """Give the error to show to those who are turned away: the last one, or that connecting takes so long."""
        if self.last_error is not None:
            return self.last_error
        return TimeoutError(f"connecting has taken {self._age(now):.1f} s so far, {self.usual:.2f} s as a rule")

    def downtime(self, now: float) -> Downtime:
        """Describe the outage, or the connect that takes so long."""
        since = self.down_since
        return Downtime(
            lasted=self._age(now) if since is None else now - since,
            fails=self.fails,
            error_age=None if since is None else now - self._failed_at,
            next_try=max(0.0, self.probe_at - now) if self.state is BreakerState.OPEN else None,
        )

    def _age(self, now: float, connect: Connect | None = None) -> float:
        """Give the age of a connect, by default of the oldest under way, in seconds; 0 if there is none."""
        connect = connect or next(iter(tuple(self._connects)), None)  # at one stroke: another thread may begin one
        return 0.0 if connect is None else connect.age(now)

    def _long(self) -> float:
        """Give the seconds after which a connect takes too long."""
        if self._slow is not None:
            return max(3 * self.usual, self._slow)
        return max(3 * self.usual, self._patience if self._known else 3 * self._patience)

    def check(self) -> None:
        """
        Compare it with its laws.

        Raises:
            AssertionError: one does not hold; the message shows the figures.
        """
        probing = self._probe in self._connects
        closed = self.state is BreakerState.CLOSED
        laws = {
            "a probe is under way, if half open, and only then": probing == (self.state is BreakerState.HALF_OPEN),
            "a probe is armed, if not closed, and only then": math.isfinite(self.probe_at) != closed,
            "an outage has begun, with an error, if not closed, and only then": (
                (self.down_since is None) == (self.last_error is None) == (self.fails == 0) == closed
            ),
            "the limit fits the state": 1 <= self.limit <= self._most if closed else self.limit == probing,
            "no more connects than the limit": not closed or self.under_way <= self.limit,
        }
        for law, holds in laws.items():
            if not holds:
                msg = f"law broken: {law}: {self!r}"
                raise AssertionError(msg)
