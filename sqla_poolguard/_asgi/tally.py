"""
Whether a request has used the database: what makes it safe to repeat, or not.

SQLAlchemy's engines tell of every statement and of every connection that they take from a pool.
A connection counts like a statement: what is done with the driver's own connection nobody tells.
The listeners are set once for the process, with the first middleware that wants to know; before, nothing is listened to.
They listen to engines, not to pools: a listener on pools would close the fast lane, this one leaves a checkout as it is.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import event
from sqlalchemy.engine import Engine

from sqla_poolguard import _naming
from sqla_poolguard._pool import GuardedPool

if TYPE_CHECKING:
    from contextvars import Token

__all__ = ["Tally", "listen", "unused"]

_current: Final[ContextVar[Tally | None]] = ContextVar("sqla_poolguard_request", default=None)
_once: Final = threading.Lock()
_seen = 0
"""Connections of guarded pools of which engines have told."""


class Tally:
    """
    What one request has used; the tasks that it creates count with it.

    A request inside a request, as with mounted applications, counts with the outer one.
    """

    __slots__ = ("_raw", "_token", "over", "used")

    def __init__(self) -> None:
        self.used = False
        """Whether an engine told of a statement, or of a connection."""
        self.over = False
        """Whether the request has been answered; what inherits it from here on is another request, on the same connection."""
        self._raw = 0
        self._token: Token[Tally | None] | None = None

    def __enter__(self) -> Self:
        outer = _current.get()
        if outer is None or outer.over:
            self._raw = _raw_checkouts()
            self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        if self._token is not None:
            _current.reset(self._token)

    def is_unused(self) -> bool:
        """Tell whether it is certain that the database was not used."""
        return not self.used and self._raw == _raw_checkouts()


def unused() -> bool:
    """Tell whether it is certain that the running request has not used the database; False where nobody counts."""
    tally = _current.get()
    return tally is not None and tally.is_unused()


def listen() -> None:
    """Begin to listen to every engine of the process."""
    with _once:
        if not event.contains(Engine, "engine_connect", _connected):
            # first: between the grant and this nobody else's listener may await
            event.listen(Engine, "engine_connect", _connected, insert=True)
            event.listen(Engine, "before_cursor_execute", _executes)


def _connected(connection: Any) -> None:
    global _seen  # noqa: PLW0603 - one figure of the process, like the books it is compared with
    if isinstance(connection.engine.pool, GuardedPool):
        _seen += 1
    _executes()


def _executes(*_: object) -> None:
    tally = _current.get()
    if tally is not None:
        tally.used = True


def _raw_checkouts() -> int:
    """
    Count the checkouts of guarded pools of which no engine has told, from a moment long past.

    Only a difference means something: `engine.raw_connection()` was used meanwhile, by this request or by another one.
    """
    return sum(ledger.granted for ledger in _naming.ledgers()) - _seen
