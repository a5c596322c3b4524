"""Gets a connection that is good: an idle one, a new one, or one to wait for, and never beyond the deadline."""

from __future__ import annotations

import math
import time
from asyncio.events import _get_running_loop
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy.exc
from sqlalchemy.pool import Pool

from sqla_poolguard import _fastlane
from sqla_poolguard._connecting import NotNow
from sqla_poolguard._connects import Connect
from sqla_poolguard._course import CONNECT, PING
from sqla_poolguard._deadline import Deadline, DeadlinePassed
from sqla_poolguard._facts import Reason
from sqla_poolguard._handover import Expired, Stuck, TurnedAway, Unreachable
from sqla_poolguard._otel._unseen import hush_pings
from sqla_poolguard._ping import ping
from sqla_poolguard._urgency import due
from sqla_poolguard.errors import NoConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._pool import GuardedPool
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._waiters import Waiter

__all__ = ["Supply"]

_T = TypeVar("_T")


class Supply:
    """The way from a request to a record with a good connection, inside one of SQLAlchemy's greenlets."""

    __slots__ = ("_patience", "_pool")

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool
        self._patience = pool._watch.gate.patience

    def check_out(self, asked_at: float, place: Place | None) -> Any:
        """Check out when no connection lies ready that is good as it is."""
        pool = self._pool
        try:
            return _fastlane.check_out(pool, asked_at, place) if pool._fast else Pool.connect(pool)
        except NotNow:  # the database cannot be reached: wait for a connection that lives, or for its return
            pass
        return self.again(asked_at, place)

    def get(self, asked_at: float, place: Place | None = None) -> GuardedRecord:
        """
        Get a record whose connection is good.

        Args:
            asked_at: when the caller asked, on the pool's clock.
            place: who asks; default: found out when it has to wait.

        Raises:
            CheckoutTimeout: none in time.
            CheckoutRejected: not allowed to wait.
            DatabaseUnavailable: none lives, and the database cannot be reached.
            NotNow: the one that it got was dead, and nobody may connect; to be asked again.
        """
        slots = self._pool._slots
        record = self._idle() if slots.idle else None
        if record is not None:
            self._make_ready(record, asked_at)
            return record
        connect = slots.reserve() if slots.taken < slots.limit else None
        if connect is None:
            return self._queue(asked_at, place)
        course = self._pool._watch.trail.begin(CONNECT)
        record = self._open(connect, asked_at)
        record.lease.course = course
        return record

    def get_to_ping(self, asked_at: float) -> GuardedRecord:
        """Get a record likewise, for a pool that has SQLAlchemy ping."""
        record = self.get(asked_at)
        self.follows(record)
        return record

    def follows(self, record: GuardedRecord) -> None:
        """Note what is there to note before something that may take long, or fail: a listener, or a ping of SQLAlchemy's."""
        lease, trail = record.lease, self._pool._watch.trail
        if lease.waiter is not None:
            lease.course, lease.waiter = trail.queued(lease.waiter), None
        if self._pool._pre_ping and not record.fresh:
            hush_pings(self._pool._dialect)
            lease.course = trail.begin(PING)

    def _idle(self) -> GuardedRecord | None:
        try:
            return self._pool._slots.take()
        except IndexError:  # another thread was faster; ends here, so that no error of the database has it as its context
            return None

    def _queue(self, asked_at: float, place: Place | None) -> GuardedRecord:
        """
        Get a record by waiting for one, or for a free slot in which to connect; tell who is turned away why.

        It notes how the record came, where anybody is to hear of that.
        """
        pool, trail = self._pool, self._pool._watch.trail
        waiter = None
        try:
            waiter = self._waiter(asked_at, place)
            given = pool._handover.wait(waiter)
        except TurnedAway as signal:
            trail.queued(waiter)
            error = self._turned_away(signal, asked_at)
        except BaseException:
            trail.queued(waiter)
            raise
        else:
            if isinstance(given, Connect):
                course = trail.queued(waiter)
                course.begin(CONNECT, pool._now())
                record = self._open(given, asked_at)
                record.lease.course = course
            else:
                record = given
                self._make_ready(record, asked_at, waiter)
            record.lease.task = waiter.task
            return record
        try:
            raise error  # here: our signals are nobody's context, and what it says of its cause stays
        finally:
            del error  # which would keep this frame, and this frame it

    def _turned_away(self, signal: TurnedAway, asked_at: float) -> Exception:
        """Make the error for one who gets nothing."""
        pool = self._pool
        if isinstance(signal, Expired):
            return self._too_late(asked_at)
        if isinstance(signal, Unreachable):
            return pool._watch.unavailable(pool._slots.breaker.cause(pool._now()), asked_at)
        if isinstance(signal, Stuck):
            return pool._watch.refusal(Reason.DEADLOCK, asked_at, signal.args)
        return pool._watch.refusal(Reason.REJECTED, asked_at)

    def _waiter(self, asked_at: float, place: Place | None) -> Waiter:
        """Make the waiter that is to queue, if it may."""
        pool, watch = self._pool, self._pool._watch
        now = asked_at if not watch.trail.courses else pool._now()  # this one may have connected already, in vain
        if pool._slots.breaker.is_busy:
            now = pool._now()
            down = pool._connecting.is_down(now)
            if down is not None:
                raise watch.unavailable(down, asked_at)
        if self._patience <= 0.0:
            raise watch.refusal(Reason.TIMEOUT, asked_at)
        loop = _get_running_loop()
        if loop is None:
            msg = "the pool is exhausted, and no event loop is running in which to wait for a connection"
            raise sqlalchemy.exc.MissingGreenlet(msg)
        deadline = min(asked_at + self._patience, due())
        if deadline <= now:
            raise self._too_late(asked_at)
        waiter = watch.waiter(loop, now, deadline, place or pool._who(1))
        if isinstance(waiter, Reason):
            raise watch.refusal(waiter, asked_at)
        return waiter

    def _end(self, asked_at: float) -> float:
        """Tell until when the pool lets a request wait, connect and ping; a pool that lets nobody wait bounds no connect."""
        return asked_at + self._patience if self._patience > 0 else math.inf

    def _overrun(self, asked_at: float) -> Reason:
        """Tell which of the deadlines of a request has passed first."""
        return Reason.DEADLINE if due() < self._end(asked_at) else Reason.TIMEOUT

    def _too_late(self, asked_at: float) -> Exception:
        """Make the error for one who has waited in vain."""
        watch = self._pool._watch
        down = self._pool._connecting.gave_up()
        return watch.refusal(self._overrun(asked_at), asked_at) if down is None else watch.unavailable(down, asked_at)

    def _open(self, connect: Connect, asked_at: float) -> GuardedRecord:
        """Open a connection in the slot that was reserved; a slot that stays empty is handed on as such."""
        record: GuardedRecord | None = None
        try:
            record = self.in_time(partial(self._pool._connecting.run, connect, self._pool._create_connection), asked_at)
            self._pool._slots.fill(record)
        finally:
            if record is None:
                self._pool._handover.drop(connect)
        return record

    def _make_ready(self, record: GuardedRecord, asked_at: float, waiter: Waiter | None = None) -> None:
        """Connect a record anew, or ping it, where that is needed; `waiter` is who has queued for it, which is noted first."""
        pool, trail = self._pool, self._pool._watch.trail
        try:
            if record.loop is not _get_running_loop() and record.is_foreign():
                record.abandon()
            is_good, after = record.is_good(), pool._ping_after
            if is_good and (after == math.inf or pool._now() - record.lease.idle_since <= after):
                if waiter is not None:
                    record.lease.waiter = waiter
                    # perhaps this request had connected in vain before, or SQLAlchemy calls listeners next
                    if trail.courses or (not pool._fast and pool.dispatch.checkout):
                        self.follows(record)
                return
            if waiter is not None:
                trail.queued(waiter)
            if is_good:
                record.lease.course = trail.begin(PING)
                self.in_time(partial(self._ping, record), asked_at)
            elif record.is_doubted():
                record.lease.course = trail.begin(PING)
                self.in_time(partial(self._ask, record), asked_at)
            else:
                record.lease.course = trail.begin(CONNECT)
                self.in_time(record.connect_anew, asked_at)
        except BaseException as error:
            shown = error.__cause__ or error if isinstance(error, NotNow) else error
            record._checkin_failed(shown, _fairy_was_created=False)
            raise

    def _ask(self, record: GuardedRecord) -> None:
        """Ping a connection that was given up with others; if it answers, it is as good as new."""
        self._ping(record)
        record.vouch()

    def _ping(self, record: GuardedRecord) -> None:
        """Ping a connection; when it is gone, connect anew, and let the others of its age be connected anew too."""
        try:
            ping(record)
        except Exception as error:  # noqa: BLE001 - whatever it says, the connection cannot be used
            self._pool.logger.info("Ping of connection %r failed (%r); reconnecting", record.dbapi_connection, error)
            record.invalidate(e=error)
            self._pool._invalidate_time = time.time()
            record.get_connection()

    def again(self, asked_at: float, place: Place | None) -> Any:
        """Check out after all, as often as it takes, but not beyond the deadline, which is that of the first time."""
        pool = self._pool
        check_out = partial(_fastlane.check_out, pool, asked_at, place) if pool._fast else partial(Pool.connect, pool)
        while True:
            with suppress(NotNow):
                fairy: Any = self.in_time(check_out, asked_at)
                fairy._connection_record.lease.course = pool._watch.trail.current()  # also of one that was there at once by now
                return fairy

    def in_time(self, connect: Callable[[], _T], asked_at: float) -> _T:
        """Connect, but not beyond the deadline."""
        try:
            end = min(self._end(asked_at), due())
            with Deadline(end - self._pool._now() if end < math.inf else math.inf):
                return connect()
        except DeadlinePassed as passed:
            if isinstance(passed.__cause__, NoConnectionError):  # a deadline within this one has said so already
                raise passed.__cause__ from passed.__cause__.__cause__
            error = self._too_late(asked_at)
            error.__cause__ = error.__cause__ or passed.__cause__
        try:
            raise error
        finally:
            del error
