"""Sees every connection that goes out and comes back while tests run, and notes whose it is. Nothing of it is there otherwise."""

from __future__ import annotations

import functools
import logging
from asyncio import BaseEventLoop
from typing import TYPE_CHECKING, Any, Final

from greenlet import getcurrent

from sqla_poolguard._awaits import Hop
from sqla_poolguard._callsite import capture, is_application
from sqla_poolguard._facts import Ending
from sqla_poolguard._pool import GuardedPool
from sqla_poolguard._testing.left_over import LeftOver
from sqla_poolguard._testing.stays import Stay

if TYPE_CHECKING:
    import weakref
    from asyncio import Task
    from collections.abc import Callable
    from types import CodeType

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._testing.stays import Owner

__all__ = ["Witness"]

_log: Final = logging.getLogger("sqla_poolguard")

_on_duty: tuple[Witness, ...] = ()
_stack: Final = capture("stack")
_RUN: Final = BaseEventLoop.run_until_complete.__code__


class Witness:
    """
    Stands at both doors of `GuardedPool` while it is on duty.

    The class's two methods are wrapped then, and put back when the last one goes: a checkout outside of tests pays nothing.
    """

    def __init__(self, owner: Owner, *, by_lineage: bool = False, is_kept: Callable[[Stay], bool] = lambda _: True) -> None:
        """
        Begin, off duty.

        Args:
            owner: who owns what is checked out from now on.
            by_lineage: whether what was left over goes on to be its owner's.
            is_kept: tells of a lease that has ended whether its owner keeps it; the garbage collector may call.
        """
        self.owner = owner
        self._by_lineage = by_lineage
        self._is_kept = is_kept
        self.fixture: str | None = None
        """The fixture that is being set up."""
        self.test: CodeType | None = None
        """The code of the test that runs; those who call that are of no interest."""
        self.left_over = LeftOver()
        self.out: dict[GuardedRecord, Stay] = {}
        self.on_grant: list[Callable[[Stay], None]] = []
        """Called for every checkout, in the task that checks out."""

    def enter(self) -> None:
        """Go on duty."""
        global _on_duty  # noqa: PLW0603 - changed as a whole: a checkout in another thread goes through it meanwhile
        if not _on_duty:
            _wrap()
        _on_duty = (*_on_duty, self)

    def leave(self) -> None:
        """Go off duty."""
        global _on_duty  # noqa: PLW0603 - likewise
        if self in _on_duty:
            _on_duty = tuple(witness for witness in _on_duty if witness is not self)
            if not _on_duty:
                _unwrap()
        self.out.clear()

    def now_out(self) -> list[Stay]:
        """Give what is out at this moment, the oldest first."""
        while True:
            try:
                return list(self.out.values())
            except RuntimeError:  # the garbage collector, or another thread, has taken one out meanwhile
                continue

    def granted(self, record: GuardedRecord, place: Any) -> None:
        """Note a checkout."""
        owner = (self.left_over.owner_of(record.lease.task) if self._by_lineage else None) or self.owner
        stay = self.out[record] = Stay(record, place, owner, self.fixture)
        stay.is_later = owner is not self.owner
        owner.stays[stay] = None
        for tell in self.on_grant:
            tell(stay)

    def ended(self, record: GuardedRecord) -> None:
        """Note that a connection comes back; the garbage collector may call."""
        stay = self.out.pop(record, None)
        if stay is not None and record.lease.granted_at == stay.granted_at:
            usual = Ending.CHECKED_IN if record.dbapi_connection is not None else Ending.DETACHED
            stay.end(record, record.lease.ending or usual)
            if not self._is_kept(stay):
                stay.owner.stays.pop(stay, None)


def _runner(task: weakref.ref[Task[Any]] | None) -> Place | None:
    """
    Find the line of the application that runs a task, and does nothing else meanwhile: `loop.run_until_complete(…)`, `asyncio.run(…)`.

    Args:
        task: the one that runs, in a greenlet of SQLAlchemy's.

    Returns:
        None if nobody does, or a library: then it is not known whom the task serves.
    """
    parent = getcurrent().parent
    frame = parent.gr_frame if parent is not None else None
    while frame is not None and frame.f_code is not _RUN:
        frame = frame.f_back
    if frame is None or task is None or Hop(_RUN, frame).local("future") is not task():
        return None
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "asyncio":
        frame = frame.f_back
    return (frame.f_code, frame.f_lasti) if frame is not None and is_application(frame.f_code.co_filename) else None


def _wrap() -> None:
    """Stand at the doors."""
    connect, do_return = GuardedPool.connect, GuardedPool._do_return_conn

    @functools.wraps(connect)
    def seen_connect(self: GuardedPool) -> Any:
        fairy: Any = connect(self)
        record, on_duty = fairy._connection_record, _on_duty
        if on_duty and record.lease.granted_at is not None:
            try:
                place = record.lease.place
                if not place or place[0] is not on_duty[0].test:
                    place = _stack(2)
                    if not place or not is_application(place[0].co_filename):
                        place = _runner(record.lease.task) or place
                for witness in on_duty:
                    witness.granted(record, place)
            except Exception:  # noqa: BLE001 - the checkout is none the worse for it
                _log.exception("bug: a checkout could not be watched")
        return fairy

    @functools.wraps(do_return)
    def seen_return(self: GuardedPool, record: Any) -> None:
        if record.lease.granted_at is not None:
            for witness in _on_duty:
                witness.ended(record)
        do_return(self, record)

    GuardedPool.connect, GuardedPool._do_return_conn = seen_connect, seen_return  # type: ignore[method-assign]


def _unwrap() -> None:
    """Go, and leave the doors as they were."""
    for name in ("connect", "_do_return_conn"):
        setattr(GuardedPool, name, vars(GuardedPool)[name].__wrapped__)
