"""Give a session's connection back before a long await, if that is clean to do."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

__all__ = ["release"]

_OPEN_CURSORS: Final = text("SELECT name FROM pg_catalog.pg_cursors WHERE name <> '' AND NOT is_holdable")
_ASYNCPGS: Final = "__asyncpg_portal_"
"""How the names begin that asyncpg gives to its cursors, which it does not close."""
_FAILED_TRANSACTION: Final = "25P02"


async def release(session: AsyncSession | async_scoped_session[Any]) -> None:
    """
    Commit a session's transaction and give its connections back; the session stays usable, and checks out anew when needed.

    For the line before a long await that is not the database's. It does nothing if the session has no connection.

    Args:
        session: the session.

    Raises:
        TypeError: it is not an `AsyncSession`.
        sqlalchemy.exc.InvalidRequestError: it would not be clean: there are changes that are not flushed, a savepoint or a
            `begin()` block around, a server-side cursor that is open, or a connection that is not the session's own.
            Nothing was done then.
    """
    if isinstance(session, async_scoped_session) and not session.registry.has():
        return
    found: object = session() if isinstance(session, async_scoped_session) else session
    if not isinstance(found, AsyncSession):
        msg = f"release() wants a sqlalchemy.ext.asyncio.AsyncSession; got {type(found).__name__}"
        raise TypeError(msg)
    inner: Any = found.sync_session
    if not (inner.in_transaction() and _owned(inner)):
        return
    obstacle = _obstacle(inner) or await _open_cursor(found)
    if obstacle is not None:
        msg = f"release() cannot give the connection back: {obstacle}"
        raise InvalidRequestError(msg)
    await found.commit()


def _obstacle(session: Session) -> str | None:
    """Say what is in the way, as far as the session knows."""
    pending = len(session.new) + len(session.deleted) + sum(session.is_modified(each) for each in session.dirty)
    if pending:
        return f"{pending} changed objects are not flushed; flush or commit them, or expunge them"
    if session.in_nested_transaction():
        return "a savepoint is open; end the `begin_nested()` block first"
    if getattr(session, "_trans_context_manager", None) is not None:
        return "it is inside a `begin()` block, which alone may commit; end the block first"
    if any(not own for own in _owned(session)):
        return "the session was bound to a connection that is not its own"
    return None


def _owned(session: Any) -> list[bool]:
    """Tell of each of its connections whether the session checked it out itself."""
    found: list[bool] = []
    transaction = session.get_transaction()
    while transaction is not None:
        found += [bool(entry[3]) for entry in list(transaction._connections.values())]
        transaction = transaction.parent
    return found


async def _open_cursor(session: AsyncSession) -> str | None:
    """Ask PostgreSQL for cursors that a commit would close."""
    if session.sync_session.get_transaction() is None:
        return None
    for connection in {id(entry[0]): entry[0] for entry in _entries(session.sync_session)}.values():
        if connection.dialect.name != "postgresql":
            continue
        try:
            cursors = await session.run_sync(_cursors, connection)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            if getattr(error.orig, "sqlstate", None) == _FAILED_TRANSACTION:
                return "a statement has failed in its transaction; roll back first"
            return f"asking for its open cursors failed ({type(error.orig).__name__}), and with it the transaction; roll back"
        count = _unread(connection, cursors) if cursors else 0
        if count:
            return f"{count} server-side cursors are open; read their rows, or close the result, first"
    return None


def _cursors(_: object, connection: Connection) -> list[str]:
    return list(connection.execute(_OPEN_CURSORS).scalars())


def _unread(connection: Any, names: list[str]) -> int:
    """Count the cursors that are still in use on this side too: PostgreSQL keeps one that has been read until the transaction ends."""
    asyncpgs = {name for name in names if name.startswith(_ASYNCPGS)}
    driver = connection.connection.dbapi_connection.driver_connection
    return (
        len(names)
        - len(asyncpgs)
        + sum(
            getattr(each, "_portal_name", None) in asyncpgs and not getattr(each, "_exhausted", False)
            for each in gc.get_referrers(driver)
            if type(each).__module__ == "asyncpg.cursor"
        )
    )


def _entries(session: Any) -> list[Any]:
    transaction = session.get_transaction()
    return list(transaction._connections.values()) if transaction is not None else []
