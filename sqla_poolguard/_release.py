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

_OPEN_CURSORS: Final = text("SELECT count(*) FROM pg_catalog.pg_cursors WHERE name <> ''")


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
    found: object = session() if isinstance(session, async_scoped_session) else session
    if not isinstance(found, AsyncSession):
        msg = f"release() wants a sqlalchemy.ext.asyncio.AsyncSession; got {type(found).__name__}"
        raise TypeError(msg)
    inner: Any = found.sync_session
    if not inner.in_transaction():
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
            cursors = await session.run_sync(_count_cursors, connection)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            return "a statement has failed in its transaction; roll back first"
        if cursors and (count := _unread(connection)):
            return f"{count} server-side cursors are open; read their rows, or close the result, first"
    return None


def _count_cursors(_: object, connection: Connection) -> int:
    return int(connection.execute(_OPEN_CURSORS).scalar_one())


def _unread(connection: Any) -> int:
    """Count the cursors that are still open on this side too: PostgreSQL keeps one that has been read until the transaction ends."""
    adapted = connection.connection.dbapi_connection
    return sum(
        bool(getattr(each, "server_side", False)) and getattr(each, "_cursor", None) is not None
        for each in gc.get_referrers(adapted)
        if getattr(each, "_adapt_connection", None) is adapted
    )


def _entries(session: Any) -> list[Any]:
    transaction = session.get_transaction()
    return list(transaction._connections.values()) if transaction is not None else []
