"""
The short way out and in for a connection, over SQLAlchemy's private parts; every one of them is tested for first.

Only two things differ from SQLAlchemy's own way, and only while nobody looks:
what tells that a connection was dropped without being closed is one weak reference instead of two objects,
and a connection that comes back clean passes none of the hooks that are empty.
Whoever listens to checkouts, checkins or resets, logs at DEBUG, pings, or resets in another way than by rollback
gets SQLAlchemy's own code.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import weakref
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.event.attr import _EmptyListener
from sqlalchemy.pool import base
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

from sqla_poolguard._record import leaked

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Collection

    from sqla_poolguard._pool import GuardedPool
    from sqla_poolguard._record import GuardedRecord

__all__ = ["CLOSED_BECAUSE", "OUT", "Quiet", "check_out", "take"]

_LINE_2_1: Final = hasattr(_ConnectionRecord, "needs_gc")
_ROLLBACK: Final = base.reset_rollback

_PARTS: Final[dict[str, tuple[Any, tuple[str, ...]]]] = {
    "_ConnectionFairy._checkout": (_ConnectionFairy._checkout, ("pool", "threadconns", "fairy")),
    "_ConnectionFairy._checkin": (_ConnectionFairy._checkin, ("self", "transaction_was_reset")),
    "_ConnectionFairy._close_special": (_ConnectionFairy._close_special, ("self", "transaction_reset")),
    "_EmptyListener": (_EmptyListener.__init__, ("self", "parent", "target_cls")),
    "_ConnectionRecord._checkin_failed": (_ConnectionRecord._checkin_failed, ("self", "err", "_fairy_was_created")),
    "_finalize_fairy": (
        base._finalize_fairy,
        ("dbapi_connection", "connection_record", "pool", "echo", "transaction_was_reset", "fairy", "is_gc_cleanup")
        if _LINE_2_1
        else ("dbapi_connection", "connection_record", "pool", "ref", "echo", "transaction_was_reset", "fairy"),
    ),
}
_FAIRY_SLOTS: Final = {"dbapi_connection", "_connection_record", "_echo", "_pool", "_counter"} | (
    {"_finalizer"} if _LINE_2_1 else set()
)


def changed_part() -> str | None:
    """Name the first of SQLAlchemy's private parts that is not as this module knows it; None if all are."""
    for name, (part, parameters) in _PARTS.items():
        if tuple(inspect.signature(part).parameters) != parameters:
            return name
    if not set(getattr(_ConnectionFairy, "__slots__", ())) >= _FAIRY_SLOTS:
        return "_ConnectionFairy.__slots__"
    return None


CLOSED_BECAUSE: Final = changed_part()
"""The private part because of which this lane is closed, and SQLAlchemy's own way is used; None: it is open."""

OUT: Final[set[GuardedRecord]] = set()
"""
Records that are checked out; a pool takes them out when they come back, in whatever way.

The collector calls no weak reference back that is garbage itself:
without this, a pool that dies together with its last connection would lose it silently.
"""


class Tether(weakref.ref["GuardedFairy"]):
    """What a record holds of the fairy that holds it; it tells when the fairy is gone."""

    __slots__ = ("record",)

    record: GuardedRecord

    def __hash__(self) -> int:
        """Be hashable when the fairy is gone; SQLAlchemy 2.0 looks it up then."""
        return id(self)


class Quiet:
    """
    Tells whether nobody listens to the events of a pool that pass here.

    SQLAlchemy would have to be asked three times per checkout, and each answer costs as much as our books.
    But it puts another object into the pool's dispatcher once somebody listens to that pool,
    and collects those who listen to all pools in a deque that is always the same.
    """

    __slots__ = ("checkin", "checkin_anywhere", "checkout", "checkout_anywhere", "reset", "reset_anywhere")

    def __init__(self, dispatch: Any) -> None:
        self.checkout, self.checkout_anywhere = _unheard(dispatch.checkout)
        self.checkin, self.checkin_anywhere = _unheard(dispatch.checkin)
        self.reset, self.reset_anywhere = _unheard(dispatch.reset)


def _unheard(listeners: Any) -> tuple[object, Collection[object]]:
    """Give what is in the dispatcher while nobody listens to the pool (nothing is identical to a new object), and who does to all."""
    return (listeners, listeners.parent_listeners) if isinstance(listeners, _EmptyListener) else (object(), ())


class _NoFinalizer:
    """Stands for the `weakref.finalize` that SQLAlchemy 2.1 detaches when a fairy is closed."""

    def detach(self) -> None:
        """Do nothing: the tether is cut by taking it from the record."""


class GuardedFairy(_ConnectionFairy):
    """A fairy that comes and goes quickly."""

    __slots__ = ()

    _finalizer: Any = _NoFinalizer()

    def close(self) -> None:
        """Give the connection back when the last of those who share it closes."""
        self._counter = counter = self._counter - 1
        if counter == 0:
            self._checkin()

    def rollback(self) -> None:
        """Roll back, without the detour over `__getattr__`."""
        self.dbapi_connection.rollback()

    def commit(self) -> None:
        """Commit, likewise."""
        self.dbapi_connection.commit()

    def _checkin(self, transaction_was_reset: bool = False) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's signature
        record: Any = self._connection_record
        pool: Any = self._pool
        if record is None:  # detached
            super()._checkin(transaction_was_reset)
            return
        dispatch, quiet = pool.dispatch, pool._quiet
        if (
            self.dbapi_connection is None
            or record.fairy_ref is None
            or record.finalize_callback
            or self._echo
            or dispatch.reset is not quiet.reset
            or dispatch.checkin is not quiet.checkin
            or quiet.reset_anywhere
            or quiet.checkin_anywhere
            or pool._reset_on_return is not _ROLLBACK
        ):
            super()._checkin(transaction_was_reset)
            return
        if not transaction_was_reset:
            try:
                pool._dialect.do_rollback(self)
            except BaseException as error:
                _reset_failed(self, pool, record, error)
                if not isinstance(error, Exception):
                    raise
        record.fairy_ref = None
        self.dbapi_connection = None  # type: ignore[assignment] # as SQLAlchemy does
        self._connection_record = None
        pool._do_return_conn(record)


_new: Final = GuardedFairy.__new__


def _fairy(pool: GuardedPool, record: Any, counter: int, echo: Any = False) -> GuardedFairy:  # noqa: FBT002 - SQLAlchemy's word
    """Make a fairy, with its tether. A function: it costs half of what a constructor does."""
    fairy = _new(GuardedFairy)
    fairy._pool = pool
    fairy._counter = counter
    fairy.dbapi_connection = record.dbapi_connection
    fairy._connection_record = record
    fairy._echo = echo
    record.fairy_ref = tether = Tether(fairy, _collected)
    tether.record = record
    OUT.add(record)
    return fairy


def _reset_failed(fairy: GuardedFairy, pool: GuardedPool, record: GuardedRecord, error: BaseException) -> None:
    """Do what SQLAlchemy does when the rollback fails: the connection is unfit, and on a cancellation comes back at once."""
    pool.logger.error("Exception during reset or similar", exc_info=error)
    if isinstance(error, Exception):
        try:
            record.invalidate(e=error)
        except BaseException as interruption:
            _let_go(fairy, record, interruption)
            raise
    else:
        _let_go(fairy, record, error)


def _let_go(fairy: GuardedFairy, record: GuardedRecord, error: BaseException) -> None:
    """Give a record back at once; its fairy must not act on it when the next one holds it."""
    fairy.dbapi_connection = None  # type: ignore[assignment]
    fairy._connection_record = None
    record._checkin_failed(error)


def _collected(tether: Any) -> None:
    """
    Clean up after a fairy that was dropped; called by the garbage collector, at any instruction and in any thread.

    In the thread of another event loop than the connection's, the cleaning is left to that loop while it runs.
    """
    record = tether.record
    if record.fairy_ref is not tether:
        return
    loop = record.loop
    if loop is not None and loop.is_running() and loop is not _get_running_loop():
        with contextlib.suppress(RuntimeError):  # it was closed between the two calls
            loop.call_soon_threadsafe(_clean_up, tether)
            return
    _clean_up(tether)


def _clean_up(tether: Tether) -> None:
    record: Any = tether.record
    if record.fairy_ref is not tether:
        return
    leaked(record, record.dbapi_connection)
    finalize: Any = base._finalize_fairy
    if _LINE_2_1:
        finalize(None, record, record.guarded, False, is_gc_cleanup=True)
    else:
        finalize(None, record, record.guarded, tether, False)


def take(pool: GuardedPool, now: float, loop: AbstractEventLoop | None) -> GuardedFairy | None:
    """Take an idle connection that is good as it is; None when the long way is needed."""
    slots, quiet = pool._slots, pool._quiet
    if (
        not slots.idle
        or pool.dispatch.checkout is not quiet.checkout
        or quiet.checkout_anywhere
        or pool.logger.isEnabledFor(logging.DEBUG)
    ):
        return None
    try:
        record = slots.take()
    except IndexError:  # another thread was faster
        return None
    started = record.starttime
    if (
        record.loop is not loop
        or pool._invalidate_time > started
        or record._soft_invalidate_time > started
        or (pool._is_picky and (pool._pre_ping or pool._recycle > -1 or now - record.lease.idle_since > pool._ping_after))
    ):
        slots.put_back(record)
        return None
    fairy = _fairy(pool, record, 1)  # first: should anything go wrong from here on, it gives the connection back
    lease = record.lease
    pool._ledger.grant_at_once(lease, now)
    pool._watch.identify(lease, now, loop)
    return fairy


def check_out(pool: GuardedPool, asked_at: float) -> _ConnectionFairy:
    """Get a connection by all means, with SQLAlchemy's ping and listeners."""
    record: Any = pool._supply.get(asked_at)
    echo = pool.logger.isEnabledFor(logging.DEBUG)
    if not (echo or pool._pre_ping or pool.dispatch.checkout):
        return _fairy(pool, record, 1)
    fairy = _fairy(pool, record, 0, echo)
    if echo:
        pool.logger.debug("Connection %r checked out from pool", fairy.dbapi_connection)
    return _ConnectionFairy._checkout(pool, fairy=fairy)
