"""
The short way out and in for a connection, over SQLAlchemy's private parts, which are tested for first.

Only two things differ from SQLAlchemy's own way, and only while nobody looks:
what tells that a connection was dropped without being closed is one weak reference instead of two objects,
and a connection that comes back clean passes none of the hooks that are empty.
Whoever listens to checkouts, checkins or resets, logs at DEBUG, pings, or resets in another way than by rollback
gets SQLAlchemy's own code.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.pool import base
from sqlalchemy.pool.base import _ConnectionFairy

from sqla_poolguard._private import LINE_2_1, changed_part
from sqla_poolguard._record import leaked

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._pool import GuardedPool
    from sqla_poolguard._record import GuardedRecord

__all__ = ["CLOSED_BECAUSE", "OUT", "check_out", "take"]

_ROLLBACK: Final = base.reset_rollback
_DEBUG: Final = logging.DEBUG

CLOSED_BECAUSE: Final = changed_part()
"""The private part because of which this lane is closed, and SQLAlchemy's own way is used; None: it is open."""

OUT: Final[set[GuardedRecord]] = set()
"""
Records that are checked out; a pool takes them out when they come back, in whatever way.

The collector calls no weak reference back that is garbage itself:
without this, a pool that dies together with its last connection would lose it silently.
"""


class _NoFinalizer:
    """Stands for the `weakref.finalize` that SQLAlchemy 2.1 detaches when a fairy is closed."""

    def detach(self) -> None:
        """Do nothing: a fairy whose record knows it no more is not missed."""


class GuardedFairy(_ConnectionFairy):
    """A fairy that comes and goes quickly."""

    __slots__ = ()

    _finalizer: Any = _NoFinalizer()

    __init__: Any = object.__init__  # what it holds is put into it: see `_fairy`

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
        quiet = pool._quiet
        dispatch = quiet.dispatch
        if (
            self.dbapi_connection is None
            or record.fairy_ref is None
            or record.finalize_callback
            or self._echo
            or (dispatch.reset is not quiet.reset and dispatch.reset)
            or (dispatch.checkin is not quiet.checkin and dispatch.checkin)
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
        type(pool)._do_return_conn(pool, record)  # a method of the pool's would be looked for among its attributes first


_ref: Final = weakref.ref


def _fairy(pool: GuardedPool, record: Any, counter: int, echo: Any = False) -> GuardedFairy:  # noqa: FBT002 - SQLAlchemy's word
    """Make a fairy that is missed when it is dropped. A function: it costs half of what a constructor does."""
    fairy: GuardedFairy = GuardedFairy()
    fairy._pool = pool
    fairy._counter = counter
    fairy.dbapi_connection = record.dbapi_connection
    fairy._connection_record = record
    fairy._echo = echo
    record.fairy_ref = _ref(fairy, _collected)
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


def _collected(reference: Any) -> None:
    """
    Clean up after a fairy that was dropped; called by the garbage collector, at any instruction and in any thread.

    In the thread of another event loop than the connection's, the cleaning is left to that loop while it runs.
    """
    clean_up: Any = _clean_up
    if clean_up is None:  # the interpreter ends, and has taken this module apart
        return
    for record in OUT.copy():  # its own record; few are out, and fewer are ever dropped
        if record.fairy_ref is reference:
            break
    else:
        return
    loop = record.loop
    if loop is not None and loop.is_running() and loop is not _get_running_loop():
        with contextlib.suppress(RuntimeError):  # it was closed between the two calls
            loop.call_soon_threadsafe(clean_up, record, reference)
            return
    clean_up(record, reference)


def _clean_up(record: Any, reference: Any) -> None:
    if record.fairy_ref is not reference:
        return
    leaked(record, record.dbapi_connection)
    record.fairy_ref = _nobody  # SQLAlchemy 2.0 looks it up in a dictionary, which a dead reference does not allow
    finalize: Any = base._finalize_fairy
    if LINE_2_1:
        finalize(None, record, record.guarded, False, is_gc_cleanup=True)
    else:
        finalize(None, record, record.guarded, _nobody, False)


def _nobody() -> None:
    """Stand for a reference to a fairy that is no more."""


def take(pool: GuardedPool, now: float, loop: AbstractEventLoop | None) -> GuardedFairy | None:
    """Take an idle connection that is good as it is; None when the long way is needed. Not for a pool that pings always."""
    slots, quiet = pool._slots, pool._quiet
    if (
        (quiet.dispatch.checkout is not quiet.checkout and quiet.dispatch.checkout)
        or quiet.checkout_anywhere
        or pool.logger is not quiet.logger
        or (quiet.levels.get(_DEBUG) is not False and pool.logger.isEnabledFor(_DEBUG))
    ):
        return None
    try:
        record = slots.take()
    except IndexError:  # another thread was faster
        return None
    started, lease = record.starttime, record.lease
    try:
        unfit = (
            record.loop is not loop
            or (pool._invalidate_time and pool._invalidate_time > started)  # 0 as long as none was: not to be compared to a float
            or (record._soft_invalidate_time and record._soft_invalidate_time > started)
            or pool._recycle > -1
            or now - lease.idle_since > pool._ping_after
        )
    except Exception:  # a figure that somebody set on the finished pool, and that is none; the record has no other holder yet
        pool._handover.give_back(record)
        raise
    if unfit:
        slots.put_back(record)
        return None
    fairy = _fairy(pool, record, 1)  # first: should anything go wrong from here on, the connection is found by its tether
    pool._ledger.grant_at_once(lease, now)
    pool._watch.identify(lease, now, loop, pool._who(3))
    return fairy


def check_out(pool: GuardedPool, asked_at: float, place: Place | None) -> _ConnectionFairy:
    """Get a connection by all means, with SQLAlchemy's ping and listeners."""
    record: Any = pool._supply.get(asked_at, place)
    quiet = pool._quiet
    echo = (pool.logger is not quiet.logger or quiet.levels.get(_DEBUG) is not False) and pool.logger.isEnabledFor(_DEBUG)
    if not (echo or pool._pre_ping or quiet.hears_checkouts()):
        return _fairy(pool, record, 1)
    pool._supply.follows(record)
    fairy = _fairy(pool, record, 0, echo)
    if echo:
        pool.logger.debug("Connection %r checked out from pool", fairy.dbapi_connection)
    return _ConnectionFairy._checkout(pool, fairy=fairy)
