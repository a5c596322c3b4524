"""Takes a connection back whose task has finished, so that nobody else has to wait for it. Only where that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy.exc import ResourceClosedError

from sqla_poolguard._callsite import site_of
from sqla_poolguard._facts import Ending
from sqla_poolguard._record import cut_off

if TYPE_CHECKING:
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._reporter import Reporter

__all__ = ["ConnectionReclaimedError", "reclaim"]


class ConnectionReclaimedError(ResourceClosedError):
    """The connection was taken back: the task that had checked it out had finished."""


class _Reclaimed:
    """Stands where a connection was that has been taken back. It can be closed; anything else is an error that says why."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __getattr__(self, name: str) -> NoReturn:
        raise ConnectionReclaimedError(self._message)

    def rollback(self) -> None:
        """Do nothing: the transaction was rolled back with the connection."""

    def close(self) -> None:
        """Do nothing: it is closed."""

    terminate = close


def reclaim(record: GuardedRecord, reporter: Reporter) -> None:
    """
    Take a connection back. It is idle; its transaction, if one is open, is lost with it.

    Whoever still has it gets `ConnectionReclaimedError` when it is used.
    """
    fairy: Any = record.fairy_ref() if record.fairy_ref is not None else None
    connection = record.dbapi_connection
    if fairy is not None:
        fairy.dbapi_connection = _Reclaimed(
            f"the connection of pool {reporter.name!r}, checked out at {site_of(record.lease.place)}, was taken back: "
            "the task that had checked it out had finished, and had not given it back"
        )
        fairy._connection_record = None
        finalizer = getattr(fairy, "_finalizer", None)  # SQLAlchemy 2.1
        if finalizer is not None:
            finalizer.detach()
    record.fairy_ref = None
    record.dbapi_connection = None
    record.lease.ending = Ending.RECLAIMED
    record.guarded.dispatch.close(connection, record)
    cut_off(record.guarded, connection)
    record.guarded._do_return_conn(record)
