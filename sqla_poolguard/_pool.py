"""GuardedPool: the two doors that SQLAlchemy uses, and what happens at them. What to do is decided in the rules."""

from __future__ import annotations

import math
import time
import weakref
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, ClassVar, Final

import sqlalchemy.exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool
from sqlalchemy.util import concurrency

from sqla_poolguard._callsite import capture, this_task
from sqla_poolguard._deadline import Deadline, DeadlinePassed
from sqla_poolguard._facts import Ending, Opened, Reason
from sqla_poolguard._guard import Guard
from sqla_poolguard._ledger import SAMPLES_KEPT, Ledger
from sqla_poolguard._logs import LogObserver
from sqla_poolguard._naming import address_of, claim
from sqla_poolguard._observers import Observers
from sqla_poolguard._record import GuardedRecord, listen
from sqla_poolguard._reporter import Reporter
from sqla_poolguard._slots import Slots
from sqla_poolguard._sweeper import Sweeper
from sqla_poolguard._waiters import Waiter
from sqla_poolguard.errors import CheckoutError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from sqla_poolguard._facts import PoolSnapshot
    from sqla_poolguard._ledger import Lease
    from sqla_poolguard._observers import Observer

__all__ = ["GuardedPool"]

_EXPIRED: Final = object()
_TIMER_SLACK: Final = 0.001
"""Seconds by which an event loop may fire a timer early (uvloop counts in milliseconds)."""

_await: Final[Callable[[Any], Any]] = getattr(concurrency, "await_", concurrency.await_only)


class GuardedPool(AsyncAdaptedQueuePool):
    """
    A pool for `create_async_engine` that knows who holds every connection.

    It takes the arguments of `AsyncAdaptedQueuePool`, with the same meaning, and `guard`.
    A connection that comes back goes straight to the caller that has waited longest.
    `timeout` covers the wait, the connect and the ping together; 0 or less means not to wait for a connection at all,
    and leaves a connect to the driver's own timeout.
    """

    # SQLAlchemy names loggers after the class; outside of its own namespace an application
    # that logs everything at DEBUG would turn on the pool's debug output, and its slow path
    _sqla_logger_namespace = "sqlalchemy.pool.GuardedPool"

    default_guard: ClassVar[Guard] = Guard()
    """Applies where no `guard` is given; see `configure`."""

    _clock = staticmethod(time.monotonic)

    def __init__(
        self,
        creator: Callable[..., Any],
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = False,  # noqa: FBT001, FBT002 - SQLAlchemy's signature; it forwards named arguments only
        guard: Guard | None = None,
        _predecessor: GuardedPool | None = None,
        **kw: Any,
    ) -> None:
        """
        Make a pool that has opened nothing yet.

        Args:
            creator: makes a DBAPI connection.
            pool_size: connections kept when idle; 0 means no limit at all, as in SQLAlchemy.
            max_overflow: connections allowed above that; -1 means no limit.
            timeout: seconds to wait for a connection; None means for ever.
            use_lifo: hand out the connection that came back last.
            guard: what to watch for; default: `default_guard`.
            kw: the other arguments of `sqlalchemy.pool.Pool`.

        Raises:
            ValueError: `guard` is no `Guard`.
        """
        if guard is not None and not isinstance(guard, Guard):
            msg = f"guard={guard!r} is not allowed; allowed: None or a sqla_poolguard.Guard"
            raise ValueError(msg)
        Pool.__init__(self, creator, **kw)
        self._guard = guard if guard is not None else self.default_guard
        self._size = pool_size
        self._overflow_allowed = -1 if pool_size == 0 else max_overflow
        self._timeout = timeout
        self._use_lifo = use_lifo
        self._slots: Slots[GuardedRecord] = Slots(pool_size, max_overflow, use_lifo=use_lifo)
        self._capture = capture(self._guard.capture)
        self._home: AbstractEventLoop | None = None
        self._sweepers: dict[AbstractEventLoop, Sweeper] = {}
        self._watched = self._guard.hold_warning is None
        self._disposed = False
        if _predecessor is None:
            self._ledger = Ledger()
            name = claim(self._guard.name or address_of(creator, self._dialect), self._ledger)
            self._observers = Observers(self._built_in_observers() + self._guard.observers)
            self._reporter = Reporter(name, self._ledger, self._observers)
            listen(self)
        else:  # its listeners came with `_dispatch`
            self._ledger = _predecessor._ledger
            self._observers = _predecessor._observers
            self._reporter = _predecessor._reporter
        self._ledger.open_pool(self._slots)

    @classmethod
    def configure(cls, **options: Any) -> type[GuardedPool]:
        """
        Make a poolclass with other defaults: `poolclass=GuardedPool.configure(hold_warning=1)`.

        Args:
            options: options of `Guard`.

        Raises:
            ValueError: an unknown option, or a value that is not allowed.
        """
        guard = Guard.from_options(options, base=cls.default_guard)
        return type(cls.__name__, (cls,), {"default_guard": guard, "__module__": cls.__module__, "__doc__": cls.__doc__})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.snapshot()}>"

    @property
    def guard(self) -> Guard:
        """The options in force."""
        return self._guard

    @property
    def name(self) -> str:
        """The pool's name in logs, errors and telemetry; unique in the process."""
        return self._reporter.name

    def snapshot(self) -> PoolSnapshot:
        """Look at the pool as it is now."""
        self._reporter.tell_late()
        return self._reporter.snapshot(self._slots, self._size, self._overflow_allowed, self._clock())

    # door in

    def connect(self) -> PoolProxiedConnection:
        """
        Check out a connection.

        Raises:
            CheckoutTimeout: none in time.
            CheckoutRejected: not allowed to wait.
        """
        ledger = self._ledger
        asked_at = now = self._clock()
        ledger.ask()
        try:
            fairy: Any = super().connect() if not self._pre_ping else self._connect_and_ping(asked_at)
            lease: Lease = fairy._connection_record.lease
            if lease.delay is not None or self._pre_ping:
                now = self._clock()
            self._identify(lease, now)
            ledger.grant(lease, now, now - asked_at)
        except BaseException as error:
            self._refused(error, asked_at)
            raise
        if lease.delay is not None:
            self._tell_waited(lease)
        if self._observers.granted:
            self._reporter.tell(self._observers.granted, self._reporter.holder(lease, now))
        return fairy  # type: ignore[no-any-return]

    def _identify(self, lease: Lease, now: float) -> None:
        """Note on the lease who holds it, and see that somebody looks when it gets overdue."""
        task = this_task()
        lease.task = weakref.ref(task) if task is not None else None
        lease.place = self._capture()
        loop = _get_running_loop()
        if loop is not self._home:
            self._home = loop
            self._watched = self._guard.hold_warning is None
        if not self._watched and loop is not None:
            self._watched = True
            self._sweeper(loop).wake_by(now + (self._guard.hold_warning or math.inf), now)

    def _connect_and_ping(self, asked_at: float) -> PoolProxiedConnection:
        try:
            with Deadline(self._time_left(asked_at)):
                return super().connect()
        except DeadlinePassed as passed:
            raise self._refusal(Reason.TIMEOUT, asked_at) from passed.__cause__

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            record = self._slots.take()
        except IndexError:
            return self._obtain()
        if self._is_stale(record):
            now = self._clock()
            return self._make_ready(record, now, now, 0)
        return record

    def _is_stale(self, record: GuardedRecord) -> bool:
        """Tell whether SQLAlchemy will want to connect this record anew: recycled, invalidated, or empty."""
        started = record.starttime
        return (
            record.dbapi_connection is None
            or self._invalidate_time > started
            or record._soft_invalidate_time > started
            or (self._recycle > -1 and time.time() - started > self._recycle)
        )

    def _obtain(self) -> GuardedRecord:
        """Get a record when none is idle: in a free slot, or by waiting for either."""
        asked_at = self._clock()
        if self._slots.reserve():
            return self._open(asked_at, asked_at, 0)
        waiter = self._enqueue(asked_at)
        given = self._wait(waiter)
        served_at = self._clock()
        if given is None:
            return self._open(asked_at, served_at, waiter.ahead)
        return self._make_ready(given, asked_at, served_at, waiter.ahead)

    def _open(self, asked_at: float, served_at: float, ahead: int) -> GuardedRecord:
        """Open a connection in the slot that was reserved; a slot that stays empty is freed for the next waiter."""
        record = None
        try:
            record = self._bounded(self._create_connection, asked_at)
            self._slots.fill(record)
        finally:
            if record is None:
                self._slots.vacate(None)
                self._settle()
        record.lease.delay = (served_at - asked_at, ahead)
        return record  # type: ignore[no-any-return]

    def _make_ready(self, record: GuardedRecord, asked_at: float, served_at: float, ahead: int) -> GuardedRecord:
        """Connect a record anew where it is stale."""
        record.lease.delay = (served_at - asked_at, ahead)
        if self._is_stale(record):
            try:
                self._bounded(record.get_connection, asked_at)
            except BaseException as error:
                record._checkin_failed(error, _fairy_was_created=False)
                raise
        return record

    def _bounded(self, connect: Callable[[], Any], asked_at: float) -> Any:
        """Connect, but not beyond the deadline."""
        try:
            with Deadline(self._time_left(asked_at)):
                return connect()
        except DeadlinePassed as passed:
            raise self._refusal(Reason.TIMEOUT, asked_at) from passed.__cause__

    def _time_left(self, asked_at: float) -> float:
        if self._timeout is None or self._timeout <= 0:
            return math.inf
        return asked_at + self._timeout - self._clock()

    def _create_connection(self) -> GuardedRecord:
        return GuardedRecord(self)

    # the queue

    def _enqueue(self, asked_at: float) -> Waiter:
        guard, waiters = self._guard, self._slots.waiters
        if self._timeout is not None and self._timeout <= 0:
            raise self._refusal(Reason.TIMEOUT, asked_at)
        if guard.max_waiting is not None and len(waiters.queue) >= guard.max_waiting and len(waiters) >= guard.max_waiting:
            raise self._refusal(Reason.QUEUE_FULL, asked_at)
        loop = _get_running_loop()
        if loop is None:
            msg = "the pool is exhausted, and no event loop is running in which to wait for a connection"
            raise sqlalchemy.exc.MissingGreenlet(msg)
        task = this_task()
        deadline = math.inf if self._timeout is None else asked_at + self._timeout
        waiter = Waiter(loop.create_future(), asked_at, deadline, weakref.ref(task) if task else None, self._capture())
        waiters.append(waiter)
        if deadline < math.inf:
            self._sweeper(loop).wake_by(deadline, asked_at)
        self._settle()  # a connection may have come back, from the garbage collector or another thread, since we looked
        return waiter

    def _wait(self, waiter: Waiter) -> GuardedRecord | None:
        """
        Wait until a connection or a free slot (None) is handed over.

        Whatever is handed to a waiter that can no longer take it is handed on.
        """
        future = waiter.future
        try:
            given = _await(future)
        except BaseException:
            if future.done() and not future.cancelled():
                if (given := future.result()) is not _EXPIRED:
                    self._take_back(given)
            else:
                future.cancel()
                self._slots.waiters.gave_up()
            raise
        if given is _EXPIRED:
            raise self._refusal(Reason.TIMEOUT, waiter.since)
        return given  # type: ignore[no-any-return]

    def _settle(self) -> None:
        """Give everything that is free to those who wait, then close what is one too many."""
        slots = self._slots
        while True:
            while (pair := slots.match()) is not None:
                self._deliver(*pair)
            record = slots.surplus()
            if record is None:
                return
            self._discard(record)

    def _deliver(self, waiter: Waiter, given: GuardedRecord | None) -> None:
        future = waiter.future
        loop = future.get_loop()
        if loop is _get_running_loop():
            future.set_result(given)
            return
        try:
            loop.call_soon_threadsafe(self._deliver_here, future, given)
        except RuntimeError:  # that loop is closed: nobody waits there any more
            self._take_back(given)

    def _deliver_here(self, future: Any, given: Any) -> None:
        if not future.done():
            future.set_result(given)
        elif given is not _EXPIRED:
            self._take_back(given)

    def _take_back(self, given: GuardedRecord | None) -> None:
        """Return what was handed over in vain."""
        if given is None:
            self._slots.vacate(None)
            self._settle()
        else:
            self._do_return_conn(given)

    def _discard(self, record: GuardedRecord) -> None:
        """Close a connection; its slot is free afterwards, come what may."""
        try:
            record.close()
        finally:
            self._slots.vacate(record)
            while (pair := self._slots.match()) is not None:
                self._deliver(*pair)

    # door out

    def _do_return_conn(self, record: Any) -> None:
        lease = record.lease
        if lease.granted_at is not None:
            self._end(record, lease)
        lease.delay = None
        slots = self._slots
        if record.dbapi_connection is None:
            slots.vacate(record)
            self._settle()
            return
        slots.idle.append(record)
        if slots.waiters.queue or len(slots.idle) > slots.keep:
            self._settle()

    def _end(self, record: GuardedRecord, lease: Lease) -> None:
        ending = lease.ending
        if ending is None:  # no event told: then it is still there, or detach() has taken it
            ending = Ending.CHECKED_IN if record.dbapi_connection is not None else Ending.DETACHED
        ledger, observers = self._ledger, self._observers
        held = ledger.end(lease, self._clock(), ending)
        if len(ledger.samples) > SAMPLES_KEPT:
            ledger.samples.popleft()
        if ending is Ending.LEAKED:
            checkout = self._reporter.checkout(lease, held, ending)
            self._reporter.tell_later(observers.leaked + observers.ended, checkout, self._home)
        elif lease.overdue or observers.ended:
            listeners = observers.returned + observers.ended if lease.overdue else observers.ended
            self._reporter.tell(listeners, self._reporter.checkout(lease, held, ending))
        lease.task = lease.place = None
        lease.overdue = False

    # what is told

    def _built_in_observers(self) -> tuple[Observer, ...]:
        observers: tuple[Observer, ...] = (LogObserver(),)
        if self._guard.telemetry:
            from sqla_poolguard._otel import observe

            observers += (observe(self._ledger),)
        return observers

    def _refusal(self, reason: Reason, asked_at: float) -> CheckoutError:
        now = self._clock()
        return self._reporter.refusal(reason, now - asked_at, self._slots, self._size, self._overflow_allowed, now)

    def _refused(self, error: BaseException, asked_at: float) -> None:
        """Note that a request failed, and why."""
        if isinstance(error, CheckoutError):
            reason = Reason(error.reason)
        else:
            reason = Reason.CONNECT_FAILED if isinstance(error, Exception) else Reason.CANCELLED
        self._ledger.reject(reason)
        if self._observers.rejected:
            task = this_task()
            waited = self._clock() - asked_at
            fact = self._reporter.rejection(reason, waited, self._capture(), task.get_name() if task else None, error)
            self._reporter.tell(self._observers.rejected, fact)

    def _tell_waited(self, lease: Lease) -> None:
        if lease.delay is not None and self._observers.waited:
            self._reporter.tell(self._observers.waited, self._reporter.wait(lease, *lease.delay))

    def _opened(self, seconds: float) -> None:
        """Note a physical connection; called by the event listener."""
        self._ledger.opened += 1
        if self._observers.opened:
            self._reporter.tell(self._observers.opened, Opened(self.name, seconds))

    # the timer

    def _sweeper(self, loop: AbstractEventLoop) -> Sweeper:
        sweeper = self._sweepers.get(loop)
        if sweeper is None:
            for closed in [other for other in self._sweepers if other.is_closed()]:
                del self._sweepers[closed]
            sweeper = self._sweepers[loop] = Sweeper(self)
        return sweeper

    def _sweep(self, sweeper: Sweeper) -> None:
        """Turn away whose time is up, report who holds too long, and set the timer for what is due next."""
        now = self._clock()
        for waiter in self._slots.waiters.expired(now + _TIMER_SLACK):
            self._deliver(waiter, _EXPIRED)
        deadline = self._slots.waiters.next_deadline()
        if deadline is not None and deadline < math.inf:
            sweeper.wake_by(deadline, now)
        self._watch(sweeper, now)
        self._reporter.tell_late()

    def _watch(self, sweeper: Sweeper, now: float) -> None:
        hold_warning = self._guard.hold_warning
        if hold_warning is None:
            return
        due = math.inf
        for lease in self._slots.leases():
            if lease.overdue or lease.granted_at is None:
                continue
            if now - lease.granted_at >= hold_warning - _TIMER_SLACK:
                lease.overdue = True
                self._reporter.tell(self._observers.overdue, self._reporter.holder(lease, now))
            else:
                due = min(due, lease.granted_at + hold_warning)
        self._watched = due < math.inf
        if self._watched:
            sweeper.wake_by(max(due, now + hold_warning / 20), now)

    # what SQLAlchemy asks of a pool

    def dispose(self) -> None:
        """Close the idle connections. Those that are out are closed when they come back, once `recreate()` was called."""
        self._disposed = True
        while True:
            try:
                record = self._slots.idle.popleft()
            except IndexError:
                break
            self._discard(record)
        self._reporter.tell_late()
        self.logger.info("Pool disposed. %s", self.status())

    def recreate(self) -> GuardedPool:
        """Make the pool that takes this one's place: same options, books and observers."""
        self.logger.info("Pool recreating")
        if self._disposed:
            self._slots.retire()
        return self.__class__(
            self._creator,
            pool_size=self._size,
            max_overflow=self._overflow_allowed,
            timeout=self._timeout,
            use_lifo=self._use_lifo,
            guard=self._guard,
            pre_ping=self._pre_ping,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            dialect=self._dialect,
            _dispatch=self.dispatch,
            _predecessor=self,
        )

    def size(self) -> int:
        """Connections kept when idle."""
        return self._size

    def checkedin(self) -> int:
        """Idle connections."""
        return len(self._slots.idle)

    def checkedout(self) -> int:
        """Connections that are out, or being opened or closed."""
        return self._slots.taken - len(self._slots.idle)

    def overflow(self) -> int:
        """Connections above `pool_size`; below 0 while fewer are open, as in SQLAlchemy."""
        return self._slots.taken - self._size

    def timeout(self) -> float:
        """Seconds to wait for a connection."""
        return self._timeout  # type: ignore[return-value]

    def status(self) -> str:
        """Describe the pool in one line, in SQLAlchemy's words."""
        return (
            f"Pool size: {self.size()}  Connections in pool: {self.checkedin()} "
            f"Current Overflow: {self.overflow()} Current Checked out connections: {self.checkedout()}"
        )
