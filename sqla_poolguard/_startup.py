"""Asks the server, once for each engine and when nobody is in the way, whether the pools of all processes fit it, and says so."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import sys
import weakref
from asyncio.events import _get_running_loop
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.util.concurrency import greenlet_spawn

from sqla_poolguard._budget import LIMITS_SQL, ServerLimits
from sqla_poolguard._deadline import Deadline
from sqla_poolguard._probe import driver_of, server_pid
from sqla_poolguard._startline import ProcessCount, start_line

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from sqla_poolguard._pool import GuardedPool
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._reporter import Reporter
    from sqla_poolguard._startline import StartLine

__all__ = ["introduce", "leave_off"]

_log: Final = logging.getLogger("sqla_poolguard")

_SQL: Final = f"SELECT limits.*, pg_catalog.pg_backend_pid() AS pid FROM ({LIMITS_SQL}) AS limits"  # noqa: S608 - ours
_FIRST, _SLOWEST = 1.0, 60.0
"""Seconds after the first connect when to look for a moment to ask in, and between two such looks at most."""
_QUIET: Final = 0.5
"""Seconds for which a connection has been idle if it is the only one and may be asked."""
_ANSWER: Final = 0.5
"""Seconds that the answer may take: somebody may need the connection meanwhile. Who gets none looks again later."""
_MOST_MARKS: Final = 16

_said: Final[list[int]] = []
"""What tells the other workers of this service that it has been said: open files, which the end of this process closes."""
_done: Final[weakref.WeakSet[Reporter]] = weakref.WeakSet()
"""Engines for which it was said."""
_begun: Final[weakref.WeakKeyDictionary[Reporter, weakref.ref[AbstractEventLoop]]] = weakref.WeakKeyDictionary()
"""Engines for which it is going to be, and the event loops in which."""
_tasks: Final[set[asyncio.Task[None]]] = set()
_asked: Final[weakref.WeakKeyDictionary[GuardedPool, GuardedRecord]] = weakref.WeakKeyDictionary()
"""The connections over which a question is under way."""


def introduce(pool: GuardedPool, connection: object) -> None:
    """Have the line said some time after an engine's first connect; it costs that one a look or two."""
    reporter, loop = pool._watch.reporter, _get_running_loop()
    begun = _begun.get(reporter)
    if loop is None or reporter in _done or (begun is not None and not _is_over(begun())):
        return
    if getattr(pool._dialect, "name", None) == "postgresql" and server_pid(driver_of(connection)) is not None:
        _begun[reporter] = weakref.ref(loop)
        _look_later(loop, weakref.ref(pool), weakref.ref(reporter), _FIRST)


def leave_off(pool: GuardedPool) -> None:
    """
    Give up a question that is under way, and its connection: the pool is disposed of, and its event loop may end any moment.

    A driver that can only close politely, in a greenlet of its own, goes on until it is answered.
    """
    record = _asked.pop(pool, None)
    if record is not None and record.dbapi_connection is not None and pool._dialect.has_terminate:
        record.abandon()


def _is_over(loop: AbstractEventLoop | None) -> bool:
    return loop is None or loop.is_closed()


def _look_later(loop: AbstractEventLoop, pool: weakref.ref[GuardedPool], reporter: weakref.ref[Reporter], seconds: float) -> None:
    """Look later; an engine that is dropped meanwhile keeps neither its name nor its books for it."""
    loop.call_later(seconds, _look, loop, pool, reporter, min(seconds * 2, _SLOWEST), context=Context())


def _look(loop: AbstractEventLoop, reference: weakref.ref[GuardedPool], speaker: weakref.ref[Reporter], pause: float) -> None:
    """Begin to ask if the pool is at rest; else look again later. A pool that was replaced leaves it to the one that came."""
    pool = reference()
    if pool is None or pool._slots.retired:
        reporter = speaker()
        if reporter is not None:
            _begun.pop(reporter, None)
    elif _is_at_rest(pool, loop):
        task = asyncio.ensure_future(_say(pool, loop, pause))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    else:
        _look_later(loop, reference, speaker, pause)


def _is_at_rest(pool: GuardedPool, loop: AbstractEventLoop) -> bool:
    """Tell whether nobody would miss a connection: another one is idle, or can be opened and this one has been idle for a while."""
    slots = pool._slots
    try:
        first, last = slots.idle[0], slots.idle[-1]
    except IndexError:
        return False
    if slots.waiters.queued or last.loop is not loop or first.loop is not loop:
        return False
    return first is not last or (slots.taken < slots.limit and pool._clock() - last.lease.idle_since > _QUIET)


async def _say(pool: GuardedPool, loop: AbstractEventLoop, pause: float) -> None:
    """Ask and say; where the server does not answer, try again."""
    reporter = pool._watch.reporter
    try:
        line = await greenlet_spawn(_ask, pool)
    except Exception as error:  # noqa: BLE001 - whatever it is: who needs the server finds out as well
        _log.debug("pool %r: could not ask how many connections the server has room for: %s", pool.name, type(error).__name__)
        line = None
    if line is None:
        _look_later(loop, weakref.ref(pool), weakref.ref(reporter), pause)
        return
    _done.add(reporter)
    if _is_first(line):
        _log.log(logging.WARNING if line.fits is False else logging.INFO, "%s", line.text)


def _ask(pool: GuardedPool) -> StartLine | None:
    """Ask over the idle connection that would be handed out last; None if there is none now."""
    slots = pool._slots
    try:
        record: GuardedRecord = slots.idle.popleft() if pool._use_lifo else slots.idle.pop()
    except IndexError:
        return None
    well = False
    try:
        if not record.is_good() or record.is_foreign():
            well = True
            return None
        _asked[pool] = record
        with Deadline(_ANSWER):
            row = _row(record.dbapi_connection)
        pooled = row.pop("pid") != server_pid(driver_of(record.dbapi_connection))
        well = True
    finally:
        if well:
            _asked.pop(pool, None)
            pool._handover.give_back(record)
        else:  # cancelled, or the connection is lost: nobody is to find that out
            leave_off(pool)
            pool._handover.discard(record)
    processes = ProcessCount.read(pool.guard.processes, os.environ)
    return start_line(pool.name, slots.size, slots.max_overflow, processes, ServerLimits.of(row), pooled=pooled)


def _row(connection: Any) -> dict[str, Any]:
    cursor = connection.cursor()
    cursor.execute(_SQL)
    names = [column[0] for column in cursor.description]
    row = dict(zip(names, cursor.fetchone(), strict=True))
    cursor.close()
    connection.rollback()
    return row


def _is_first(line: StartLine) -> bool:
    """
    Tell whether no other worker of this service (the same parent, the same group) has said the same, nor an engine like it here.

    A name in Linux's abstract namespace is no file, and is free again when its owner ends. Elsewhere each worker says it.
    """
    if sys.platform != "linux" or len(_said) >= _MOST_MARKS:
        return True
    key = f"{os.getuid()} {os.getppid()} {os.getpgrp()} {line.text}"
    try:
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:  # no file is left; so it is said
        return True
    try:
        mark.bind(f"\0poolguard-{hashlib.sha256(key.encode()).hexdigest()[:32]}")
    except OSError:
        mark.close()
        return False
    _said.append(mark.detach())
    return True
