"""
Asks the driver whether a connection is at work just now. It costs nothing while nobody asks.

Only what a driver tells is believed: of a driver that is not known, or has changed, nothing is said.
"""

from __future__ import annotations

import gc
import weakref
from asyncio import Future, current_task
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqla_poolguard._joins import waiting_tasks

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable

__all__ = ["Look", "count_operations", "driver_of", "look", "server_pid"]

_PSYCOPG_IDLE: Final = 0


class Look(NamedTuple):
    """What a driver tells of a connection at one moment."""

    busy: bool
    """Whether the database has been asked something and has not answered yet."""
    operations: int
    """Rises with what the connection is asked; equal at two looks, both idle: it was idle all the time in between."""
    in_transaction: bool
    user: Task[Any] | None
    """The task that waits for the answer."""


def driver_of(connection: Any) -> Any:
    """Give the driver's own connection, of SQLAlchemy's adapted one; None if it is closed."""
    return getattr(connection, "driver_connection", None)


def server_pid(driver: Any) -> int | None:
    """Tell which process of the server a driver's connection believes to talk to; behind a pooler that is none of the server's."""
    try:
        if type(driver).__module__.partition(".")[0] == "asyncpg":
            return int(driver.get_server_pid())
        return int(driver.info.backend_pid)
    except Exception:  # noqa: BLE001 - closed just now, or a driver that does not tell
        return None


def look(driver: Any) -> Look | None:
    """Ask a driver's connection; None if it does not tell."""
    probe = _PROBES.get(type(driver).__module__.partition(".")[0])
    if probe is None:
        return None
    try:
        return probe(driver)
    except Exception:  # noqa: BLE001 - a driver that has changed: nothing is known then
        return None


def count_operations(driver: Any) -> None:
    """Let a psycopg connection count what it is asked: unlike asyncpg's, it does not. All that it awaits goes through `wait`."""
    if type(driver).__module__.partition(".")[0] != "psycopg" or not hasattr(driver, "wait"):
        return
    reference = weakref.ref(driver)  # a strong one would be a circle
    driver._poolguard_operations, driver._poolguard_waits, driver._poolguard_user = 0, 0, None

    async def wait(*args: Any, **kwargs: Any) -> Any:
        connection: Any = reference()
        if args and getattr(args[0], "__name__", None) == "notifies":  # the database is asked nothing: it may speak, or not
            return await type(connection).wait(connection, *args, **kwargs)
        task = current_task()
        connection._poolguard_user = weakref.ref(task) if task is not None else None
        connection._poolguard_operations += 1
        connection._poolguard_waits += 1
        try:
            return await type(connection).wait(connection, *args, **kwargs)
        finally:
            connection._poolguard_waits -= 1

    driver.wait = wait


def _asyncpg(driver: Any) -> Look:
    protocol = driver._protocol
    asked = next((held for held in gc.get_referents(protocol) if isinstance(held, Future) and not held.done()), None)
    user = next(waiting_tasks(asked), None) if asked is not None else None
    return Look(asked is not None, protocol.queries_count, driver.is_in_transaction(), user)


def _psycopg(driver: Any) -> Look:
    busy, user = driver._poolguard_waits > 0, driver._poolguard_user
    task = user() if busy and user is not None else None
    return Look(busy, driver._poolguard_operations, int(driver.pgconn.transaction_status) != _PSYCOPG_IDLE, task)


_PROBES: Final[dict[str, Callable[[Any], Look]]] = {"asyncpg": _asyncpg, "psycopg": _psycopg}
