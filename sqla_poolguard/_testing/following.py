"""
Exact mode: follows whoever holds a connection from one suspension to the next, so that every await is seen and timed.

Nothing of the task, its coroutine or the loop is replaced. After each of its steps the holder awaits a future: that is looked at,
and a callback on it tells when the next step comes. It is for tests: the callbacks are a little work for the event loop.
"""

from __future__ import annotations

from asyncio import isfuture
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.engine import Connection

from sqla_poolguard import _probe
from sqla_poolguard._awaits import chain_of
from sqla_poolguard._callsite import is_application, is_internal
from sqla_poolguard._facts import HolderState
from sqla_poolguard._sight import attribute, joined_deeply
from sqla_poolguard._testing.account import Account

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task

    from sqla_poolguard._awaits import Chain
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._sight import Sight
    from sqla_poolguard._testing.stays import Stay

__all__ = ["follow"]

_TURNS: Final = 3
"""Turns of the loop in which a task that was just made, and those that it makes, come to use a connection."""


def follow(stay: Stay) -> None:
    """Keep the account of a lease, from now to its end, as long as the task that checked out lives."""
    loop = _get_running_loop()
    if loop is not None and stay.task is not None:
        stay.account = Account()
        loop.call_soon(_Follower(stay, stay.account, loop).look)


class _Follower:
    """Follows one holder."""

    __slots__ = ("_account", "_loop", "_operations", "_stay")

    def __init__(self, stay: Stay, account: Account, loop: AbstractEventLoop) -> None:
        self._stay = stay
        self._account = account
        self._loop = loop
        self._operations: int | None = None
        """The driver's count when the wait began."""

    def look(self) -> None:
        """See what the holder awaits, if it does, and be called when that has come; called after each of its steps."""
        task, record = self._stay.holder, self._stay.record
        if record is None:
            return
        if task is None:
            self._account.begin(self._stay.now(), (self._stay.site, "nobody: its task has finished"))
            return
        future = getattr(task, "_fut_waiter", None)
        if future is None or not isfuture(future) or future.done():
            self._loop.call_soon(self.look)  # it is about to run
            return
        look = _probe.look(_probe.driver_of(record.dbapi_connection))
        self._operations = look.operations if look is not None else None
        now = self._stay.now()
        if look is not None and look.busy and not chain_of(task).feeds(_probe.driver_of(record.dbapi_connection)):
            self._account.begin(now, None)
        else:
            sight = _see(task, record, is_known=look is not None)
            if sight.state is HolderState.IN_DATABASE:
                self._account.begin(now, None)
            else:
                self._account.begin(now, (sight.current, sight.awaiting), is_declared=sight.declared is not None)
                if look is None:
                    self._loop.call_soon(self._look_closer, future, now, _TURNS)
        _put_first(future, task, self.resume)

    def _look_closer(self, future: Future[Any], since: float, turns: int) -> None:
        """See whether a task that the holder waits for, and which may have begun only now, uses the connection."""
        task, record = self._stay.holder, self._stay.record
        if task is None or record is None or future.done():
            return
        fairy = record.fairy_ref() if record.fairy_ref is not None else None
        if any(_is_in_sqlalchemy(chain_of(other), fairy) for other in joined_deeply(chain_of(task))):
            self._account.begin(since, None)
        elif turns:
            self._loop.call_soon(self._look_closer, future, since, turns - 1)

    def resume(self, _: object) -> None:
        """Note that what the holder awaited has come; it runs right after this."""
        record = self._stay.record
        if record is None:
            return
        look = _probe.look(_probe.driver_of(record.dbapi_connection))
        moved = look is not None and self._operations is not None and look.operations != self._operations
        self._account.end(self._stay.now(), was_used=moved)
        self._loop.call_soon(self.look)


def _see(task: Task[Any], record: GuardedRecord, *, is_known: bool) -> Sight:
    """See what a holder awaits; of a driver that does not tell whether it works, by where in SQLAlchemy the holder is."""
    sampler = record.guarded._watch.sampler
    around = sampler.surroundings([other for other in sampler.slots.out() if other.loop is record.loop], None)
    fairy = record.fairy_ref() if record.fairy_ref is not None else None
    sight = attribute(task, record.lease, _probe.driver_of(record.dbapi_connection), fairy, around)
    if not is_known and id(task) not in around.waiting and _is_in_sqlalchemy(chain_of(task), fairy):
        return sight._replace(state=HolderState.IN_DATABASE)
    if sight.current is None or sight.awaiting is None:  # what it joins is about to run
        chain = chain_of(task)
        return sight._replace(current=chain.site(), awaiting=chain.awaited())
    return sight


def _is_in_sqlalchemy(chain: Chain, fairy: object) -> bool:
    """Tell whether SQLAlchemy awaits the driver of this connection, not of another, nor the application in a function of its own."""
    for hop in reversed(chain.hops):
        if is_application(hop.code.co_filename):
            return False
        if hop.in_greenlet and "await_" not in hop.name:
            return is_internal(hop.code.co_filename) and _is_at(chain, fairy)
    return False


def _is_at(chain: Chain, fairy: object) -> bool:
    """Tell whether a chain is at work on a connection; the innermost of SQLAlchemy's connections in its greenlet decides."""
    for hop in reversed(chain.hops):
        own = hop.local("self") if hop.in_greenlet else None
        if isinstance(own, Connection):
            return own._dbapi_connection is fairy
        if own is fairy:
            return True
    return True


def _put_first(future: Future[Any], task: Task[Any], callback: Any) -> None:
    """Add a callback to what a task awaits, so that it is called right before the task runs on; the others keep their order."""
    entries = [entry for entry in getattr(future, "_callbacks", None) or () if isinstance(entry, tuple)]
    if not any(getattr(entry[0], "__self__", None) is task for entry in entries):
        future.add_done_callback(callback)
        return
    for other, _ in entries:
        future.remove_done_callback(other)
    for other, context in entries:
        if getattr(other, "__self__", None) is task:
            future.add_done_callback(callback)
        future.add_done_callback(other, context=context)
