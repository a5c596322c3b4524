"""GuardedPool: the two doors that SQLAlchemy uses, and what happens at them. What to do is decided in the rules."""

from __future__ import annotations

import math
import time
from asyncio.events import _get_running_loop
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqlalchemy.pool import Pool

from sqla_poolguard import _arrival, _fastlane, _startup
from sqla_poolguard._books import open_books
from sqla_poolguard._callsite import capture
from sqla_poolguard._connecting import Connecting, make_breaker
from sqla_poolguard._deadline import Deadline, DeadlinePassed
from sqla_poolguard._facts import Ending
from sqla_poolguard._figures import check_arguments
from sqla_poolguard._fork import guard_against_fork
from sqla_poolguard._guard import Guard
from sqla_poolguard._handover import Handover
from sqla_poolguard._quiet import Quiet
from sqla_poolguard._record import POLITE, GuardedRecord, cut_off, is_leaked, listen
from sqla_poolguard._resizing import Resizable
from sqla_poolguard._slots import Slots
from sqla_poolguard._supply import Supply
from sqla_poolguard._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from sqla_poolguard._facts import PoolSnapshot

__all__ = ["GuardedPool"]

_CHECKED_IN: Final = Ending.CHECKED_IN
_came_back: Final = _fastlane.OUT.discard


class GuardedPool(Resizable):
    """
    A pool for `create_async_engine` that knows who holds every connection.

    It takes the arguments of `AsyncAdaptedQueuePool`, with the same meaning, and `guard`.
    A connection that comes back goes straight to the caller that has waited longest.
    `timeout` covers the wait, the connect and the ping together; 0 or less means not to wait at all, and bounds no connect.
    """

    # not for memory: beside SQLAlchemy's attributes, in one dictionary, ours would be found more slowly, by an eighth of a checkout.
    # `_dialect` is SQLAlchemy's, and has a default in the class: that makes it slower still
    __slots__ = (
        "_connecting",
        "_dialect",
        "_disposed",
        "_fast",
        "_get",
        "_guard",
        "_handover",
        "_ledger",
        "_now",
        "_observers",
        "_ping_after",
        "_quiet",
        "_short",
        "_slots",
        "_supply",
        "_use_lifo",
        "_watch",
        "_who",
    )

    # SQLAlchemy names loggers after the class; outside of its own namespace an application
    # that logs everything at DEBUG would turn on the pool's debug output, and its slow path
    _sqla_logger_namespace = "sqlalchemy.pool.GuardedPool"

    default_guard: ClassVar[Guard] = Guard()
    """Applies where no `guard` is given; see `configure`."""

    _clock = staticmethod(time.monotonic)
    """Read once per pool, since what is found in a class is found more slowly."""

    def __init__(
        self,
        creator: Callable[..., Any],
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = False,  # noqa: FBT001, FBT002 - SQLAlchemy's signature; it forwards named arguments only
        guard: Guard | Mapping[str, Any] | None = None,
        _predecessor: GuardedPool | None = None,
        **kw: Any,
    ) -> None:
        """
        Make a pool that has opened nothing yet.

        Args:
            creator: makes a DBAPI connection.
            pool_size: connections kept when idle; 0 means no limit at all, as in SQLAlchemy.
            max_overflow: connections allowed above that; below 0 means no limit.
            timeout: seconds to wait for a connection; None means for ever.
            use_lifo: hand out the connection that came back last.
            guard: what to watch for, or a mapping of such options; default: `default_guard`.
            kw: the other arguments of `sqlalchemy.pool.Pool`.

        Raises:
            ValueError: an argument, or an option of the guard, is not allowed.
        """
        self._guard = Guard.read(guard, self.default_guard)
        check_arguments(
            pool_size, max_overflow, timeout, kw.get("recycle", -1), use_lifo=use_lifo, pre_ping=kw.get("pre_ping", False)
        )
        self._dialect = next(
            vars(cls)["_dialect"] for cls in type(self).__mro__ if cls is not GuardedPool and "_dialect" in vars(cls)
        )
        self._now = self._clock
        Pool.__init__(self, creator, **kw)
        self._timeout = timeout  # type: ignore[assignment] # SQLAlchemy allows None, and says float
        self._use_lifo = use_lifo
        self._ping_after = math.inf if self._guard.ping_after is None else self._guard.ping_after
        self._fast = _fastlane.CLOSED_BECAUSE is None
        self._short = self._fast and not self._pre_ping
        if self._fast:
            self._quiet = Quiet(self.dispatch, self.logger)
        self._disposed = False
        patience = math.inf if timeout is None else timeout
        self._slots = Slots(pool_size, max_overflow, make_breaker(self._guard, patience), self._clock, use_lifo=use_lifo)
        self._handover = Handover(self._slots)
        if _predecessor is None:
            reporter = open_books(self._guard, creator, self._dialect)
            listen(self)
        else:  # its listeners came with `_dispatch`
            reporter = _predecessor._watch.reporter
        self._ledger, self._observers = reporter.ledger, reporter.observers
        self._ledger.listeners = partial(_listeners, self.dispatch)  # each generation has its own
        self._ledger.open_pool(self._slots)
        below = type(self).__mro__[: type(self).__mro__.index(GuardedPool)]
        self._who = capture(self._guard.capture, sum("connect" in vars(cls) for cls in below))
        self._watch: Watch = Watch(self._guard, self._slots, self._handover, reporter, self._clock, patience)
        self._connecting: Connecting = Connecting(self, patience)
        self._supply: Supply = Supply(self)
        self._get = self._supply.get_to_ping if self._pre_ping else self._supply.get
        guard_against_fork(self)

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
        return self._watch.reporter.name

    def snapshot(self) -> PoolSnapshot:
        """Look at the pool as it is now."""
        return self._watch.snapshot()

    # door in

    def connect(self) -> PoolProxiedConnection:
        """
        Check out a connection.

        Raises:
            CheckoutTimeout: none in time.
            CheckoutRejected: not allowed to wait.
            DatabaseUnavailable: none lives, and the database cannot be reached.
        """
        asked_at = self._now()  # no lambda below: its cells would be made at each checkout
        loop = _get_running_loop()
        fairy: Any = _fastlane.take(self, asked_at, loop) if self._short and self._slots.idle else None
        if fairy is not None:
            return fairy  # type: ignore[no-any-return]
        place = self._who(2)  # now: after a cancellation the frames that await are not linked any more
        self._ledger.ask()
        try:
            if self._pre_ping:
                fairy = self._supply.in_time(partial(self._supply.check_out, asked_at, place), asked_at)
            else:
                fairy = self._supply.check_out(asked_at, place)
        except BaseException as error:
            self._watch.refused(error, asked_at, place)
            raise
        self._watch.granted(fairy._connection_record.lease, asked_at, loop, place)
        return fairy  # type: ignore[no-any-return]

    def _do_get(self) -> ConnectionPoolEntry:
        return self._get(self._now())

    def _create_connection(self) -> GuardedRecord:
        self._disposed = False  # it is in use again: a recreate() that follows later has nothing to do with that dispose()
        return GuardedRecord(self)

    # door out

    def _do_return_conn(self, record: Any) -> None:
        lease, slots, giver = record.lease, self._slots, None
        queued = slots.waiters.queued  # the queue itself: it is asked again when the connection is among the idle ones
        try:
            if queued and self._watch.trail.is_drawing:
                giver = self._watch.trail.leaving(lease)
        finally:
            try:
                if lease.granted_at is None:
                    lease.course = lease.task = lease.waiter = None
                    if record.dbapi_connection is None:
                        record.write_off()
                elif (
                    lease.ending is None and not lease.notes and record.dbapi_connection is not None and not self._observers.ended
                ):
                    self._ledger.end(lease, self._now(), _CHECKED_IN)
                else:
                    self._watch.ended(record, lease)
            finally:
                _came_back(record)
                if queued or record.dbapi_connection is None:
                    self._handover.give_back(record, giver)
                else:  # as there, without the call
                    slots.idle.append(record)
                    if queued or len(slots.idle) > slots.keep:
                        self._handover.settle(giver)

    def _close_connection(self, connection: DBAPIConnection, *, terminate: bool = False) -> None:
        """
        Close a connection; one that is to be terminated has a moment to go politely.

        SQLAlchemy's asyncpg adapter would let the caller wait for two seconds on a link that is stalled.
        The garbage collector, which may come at any instruction, must not wait at all.
        """
        if terminate and is_leaked(connection):
            cut_off(self, connection)
            return
        try:
            with Deadline(POLITE if terminate else math.inf):
                super()._close_connection(connection, terminate=terminate)
        except DeadlinePassed:
            self.logger.debug("Connection %r did not close in %s s; it was cut off", connection, POLITE)

    # what SQLAlchemy asks of a pool

    def dispose(self) -> None:
        """Close the idle connections. Those that are out are closed when they come back, once `recreate()` was called."""
        try:
            self._connecting.stop()
            _startup.leave_off(self)
            self._handover.close_idle(0)
        finally:
            self._disposed = True
        self._watch.reporter.tell_late()
        self.logger.info("Pool disposed. %s", self.status())

    def recreate(self) -> GuardedPool:
        """Make the pool that takes this one's place: same options, books and observers."""
        self.logger.info("Pool recreating")
        if self._disposed:
            self._slots.retire()
        return self.__class__(
            self._creator,
            pool_size=self._slots.size,
            max_overflow=self._slots.max_overflow,
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


def _listeners(dispatch: Any) -> tuple[object, ...]:
    return tuple(dispatch.checkout)


_arrival.arrive(GuardedPool)
