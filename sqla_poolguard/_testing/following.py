"""
Exact mode: follows whoever holds a connection from one suspension to the next, so that every await is seen and timed.

Nothing of the task, its coroutine or the loop is replaced. After each of its steps the holder awaits a future: that is looked at,
and a callback on it tells when the next step comes. It is for tests: the callbacks are a little work for the event loop.
"""

from __future__ import annotations

import weakref
from asyncio import isfuture
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from sqla_poolguard import _probe
from sqla_poolguard._awaits import chain_of
from sqla_poolguard._callsite import is_application, is_internal
from sqla_poolguard._facts import HolderState
from sqla_poolguard._joins import kin
from sqla_poolguard._sight import attribute, joined_deeply
from sqla_poolguard._testing.account import Account
from sqla_poolguard._testing.uses import count_uses

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task

    from sqla_poolguard._awaits import Chain
    from sqla_poolguard._probe import Look
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._sight import Sight
    from sqla_poolguard._testing.stays import Stay
    from sqla_poolguard._testing.uses import Uses

__all__ = ["follow"]


def follow(stay: Stay) -> None:
    """Keep the account of a lease, from now to its end, as long as the task that checked out lives."""
    loop, record = _get_running_loop(), stay.record
    if loop is not None and stay.task is not None and record is not None:
        stay.account = Account()
        if _probe.look(_probe.driver_of(record.dbapi_connection)) is None and stay.fairy is not None:
            stay.uses = count_uses(stay.fairy, record.guarded._dialect)
        loop.call_soon(_Follower(stay, stay.account, loop).look)


class _Follower:
    """Follows one holder, and the tasks that it waits for: one of them may use the connection, and then not any more."""

    __slots__ = ("_account", "_future", "_helpers", "_loop", "_operations", "_stay")

    def __init__(self, stay: Stay, account: Account, loop: AbstractEventLoop) -> None:
        self._stay = stay
        self._account = account
        self._loop = loop
        self._future: Future[Any] | None = None
        """What the holder awaits."""
        self._helpers: weakref.WeakSet[Task[Any]] = weakref.WeakSet()
        """Tasks that it waits for, or has waited for, and those of the task groups in whose body it is."""
        self._operations: int | None = None
        """How often the connection had been used when what is being timed began, as far as that is counted."""

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
        self._future = future
        self.begin()
        _put_first(future, task, self._resume)

    def begin(self) -> None:
        """Begin to time what the holder awaits, or what it does from now on; called after each step of a task that it waits for."""
        task, record, future = self._stay.holder, self._stay.record, self._future
        if record is None or task is None or future is None or future.done():
            return
        self.end()
        driver = _probe.driver_of(record.dbapi_connection)
        look, now, chain = _probe.look(driver), self._stay.now(), chain_of(task)
        self._operations, is_busy = _used(look, self._stay.uses)
        if is_busy and not chain.feeds(driver):
            self._account.begin(now, None)
        else:
            sight = _see(task, record, is_known=look is not None)
            if sight.state is HolderState.IN_DATABASE:
                self._account.begin(now, None)
            else:
                self._account.begin(now, (sight.current, sight.awaiting), is_declared=sight.declared is not None)
        for helper in _helpers(chain):
            if helper not in self._helpers:
                self._helpers.add(helper)
                _Steps(helper, self, self._loop).look()

    def end(self) -> None:
        """Time it no more: it has come, or one step of it."""
        record = self._stay.record
        if record is not None:
            operations, _ = _used(_probe.look(_probe.driver_of(record.dbapi_connection)), self._stay.uses)
            moved = None not in {operations, self._operations} and operations != self._operations
            self._account.end(self._stay.now(), was_used=moved)

    def _resume(self, _: object) -> None:
        """Note that what the holder awaited has come; it runs right after this."""
        if self._stay.record is not None:
            self.end()
            self._future = None
            self._loop.call_soon(self.look)


class _Steps:
    """Tells the follower of a holder when a task, which that waits for, has awaited something, and when it awaits the next."""

    __slots__ = ("_follower", "_loop", "_task")

    def __init__(self, task: Task[Any], follower: _Follower, loop: AbstractEventLoop) -> None:
        self._task = weakref.ref(task)
        self._follower = follower
        self._loop = loop

    def look(self) -> None:
        """See whether it awaits something, as soon as it does."""
        task = self._task()
        if task is None:
            return
        future = getattr(task, "_fut_waiter", None)
        if task.done():
            self._follower.begin()
        elif future is None or not isfuture(future) or future.done():
            self._loop.call_soon(self.look)
        else:
            _put_first(future, task, self._resume)
            self._loop.call_soon(self._follower.begin)  # the one that looks at it may be in the midst of that

    def _resume(self, _: object) -> None:
        self._follower.end()
        self._loop.call_soon(self.look)


def _helpers(chain: Chain) -> list[Task[Any]]:
    """Give the tasks whose steps tell what a holder's time goes for."""
    return [*joined_deeply(chain), *kin(chain)]


def _used(look: Look | None, uses: Uses | None) -> tuple[int | None, bool]:
    """Tell how often the connection has been used, None if nobody counts, and whether it is now: as its driver says, else as was counted."""
    if look is not None:
        return look.operations, look.busy
    return (uses.count, uses.running > 0) if uses is not None else (None, False)


def _see(task: Task[Any], record: GuardedRecord, *, is_known: bool) -> Sight:
    """See what a holder awaits; of a driver that does not tell whether it works, by where in SQLAlchemy the holder is."""
    sampler = record.guarded._watch.sampler
    around = sampler.surroundings([other for other in sampler.slots.out() if other.loop is record.loop], None)
    fairy = record.fairy_ref() if record.fairy_ref is not None else None
    sight = attribute(task, record.lease, _probe.driver_of(record.dbapi_connection), fairy, around)
    if not is_known and id(task) not in around.waiting:
        chain = chain_of(task)
        if any(_is_in_sqlalchemy(other, fairy) for other in (chain, *map(chain_of, _helpers(chain)))):
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
