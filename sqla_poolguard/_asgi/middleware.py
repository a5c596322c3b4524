"""The middleware: what raises for want of a connection is answered with 503, and a client's deadline is kept."""

from __future__ import annotations

import contextlib
import logging
import math
import re
from typing import TYPE_CHECKING, Final, Literal

from sqla_poolguard._asgi.reply import journal, reply_to
from sqla_poolguard._asgi.saturation import saturation_in
from sqla_poolguard._asgi.tally import Tally, listen
from sqla_poolguard._asgi.words import answer, header
from sqla_poolguard._urgency import deadline

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqla_poolguard._asgi.reply import Reply
    from sqla_poolguard._asgi.saturation import Saturation
    from sqla_poolguard._asgi.words import App, Message, Receive, Scope, Send

__all__ = ["CLOSE_REASON", "TRY_AGAIN_LATER", "PoolGuardMiddleware"]

TRY_AGAIN_LATER: Final = 1013
"""The close code of a WebSocket that fits."""
CLOSE_REASON: Final = "no database connection"

_UNITS: Final = {"s": 1.0, "ms": 0.001}
_NUMBER: Final = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~\w-]+", re.ASCII)
_log: Final = logging.getLogger("sqla_poolguard")


class PoolGuardMiddleware:
    """
    Answer 503 when a request got no connection. Pure ASGI; every other error goes through unchanged.

    It finds the error in an `ExceptionGroup` too, if the group holds nothing else. Once a response has begun it
    does nothing but log. A WebSocket is refused with 503 where the server can do that, else closed with code 1013.
    """

    def __init__(
        self,
        app: App,
        *,
        deadline_header: str | None = None,
        deadline_unit: Literal["s", "ms"] = "s",
        max_deadline: float = 30.0,
        count_statements: bool = True,
    ) -> None:
        """
        Wrap an application.

        Args:
            app: the ASGI application.
            deadline_header: the request header in which a client says how long it waits for an answer; None for none.
            deadline_unit: what the header counts, seconds ("s") or milliseconds ("ms"); a fraction is allowed.
            max_deadline: seconds; a header that says more counts as this.
            count_statements: find out whether a request has used the database; without it `retry_safe` is never true.

        Raises:
            ValueError: an option has a value that is not allowed; the message names the option, the value and what is allowed.
        """
        _check(deadline_header, deadline_unit, max_deadline, count_statements)
        self.app = app
        self._header = None if deadline_header is None else deadline_header.lower().encode("ascii")
        self._unit = _UNITS[deadline_unit]
        self._longest = float(max_deadline)
        self._counts = count_statements
        if count_statements:
            listen()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        with Tally() if self._counts else contextlib.nullcontext():
            if scope["type"] == "http":
                await self._serve(scope, receive, send)
            else:
                await self._serve_socket(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            with self._deadline(scope):
                await self.app(scope, receive, watched)
        except Exception as error:
            if not await _refuse(scope, send, error, begun=begun):
                raise

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = ""

        async def heard() -> Message:
            nonlocal told
            message = await receive()
            if message["type"] == "websocket.disconnect":
                told = message["type"]
            return message

        async def watched(message: Message) -> None:
            nonlocal told
            told = message["type"]
            await send(message)

        try:
            await self.app(scope, heard, watched)
        except Exception as error:
            if not await _refuse_socket(scope, send, error, told):
                raise

    def _deadline(self, scope: Scope) -> AbstractContextManager[None]:
        """Give the deadline that the client has set; of several the nearest; one that cannot be read is none."""
        if self._header is None:
            return contextlib.nullcontext()
        values = [float(value) for value in map(str.strip, header(scope, self._header)) if _NUMBER.fullmatch(value)]
        return deadline(min(min(values) * self._unit, self._longest)) if values else contextlib.nullcontext()


async def _refuse(scope: Scope, send: Send, error: Exception, *, begun: bool) -> bool:
    """Answer 503; False if the error is of another kind, or an answer has begun."""
    reply = _reply(scope, error, too_late=begun)
    if reply is not None:
        with contextlib.suppress(OSError):  # the client has gone, and the server says so
            await answer(scope, send, reply.status, reply.headers, reply.body)
    return reply is not None


async def _refuse_socket(scope: Scope, send: Send, error: Exception, told: str) -> bool:
    """Refuse a WebSocket, or close it; False if the error is of another kind, or the socket is closed. `told` is its last message."""
    reply = _reply(
        scope, error, too_late=told not in {"", "websocket.accept", "websocket.send"}
    )  # it is over, or was refused already
    if reply is not None:
        with contextlib.suppress(OSError):
            if not told and "websocket.http.response" in (scope.get("extensions") or {}):
                await answer(scope, send, reply.status, reply.headers, reply.body)
            else:
                await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": CLOSE_REASON})
    return reply is not None


def _reply(scope: Scope, error: Exception, *, too_late: bool) -> Reply | None:
    """
    Make the answer, and note it; None if the error is of another kind, or it is too late.

    A function, not a part of who catches the error: that one's frame is in the traceback, and a name for the error in it
    would be a cycle, which only the garbage collector ends; under overload, thousands of them a second.
    """
    found = saturation_in(error)
    if found is None:
        return None
    if too_late:
        _too_late(scope, found)
        return None
    reply = reply_to(found)
    journal.note(found)
    return reply


def _too_late(scope: Scope, error: Saturation) -> None:
    """Tell the log that a refusal came too late to be answered."""
    _log.warning(
        "no 503 for %s %r, its response had begun: %s",
        scope.get("method", scope["type"]),
        scope.get("path", ""),
        error,
        extra={"poolguard": error.snapshot},
    )


def _check(deadline_header: object, deadline_unit: object, max_deadline: object, count_statements: object) -> None:
    """Check the options of a middleware."""
    number = isinstance(max_deadline, (int, float)) and not isinstance(max_deadline, bool) and 0 < max_deadline < math.inf
    named = isinstance(deadline_header, str) and _TOKEN.fullmatch(deadline_header)
    for name, value, right, allowed in (
        ("deadline_header", deadline_header, deadline_header is None or named, "None or the name of an HTTP header"),
        ("deadline_unit", deadline_unit, deadline_unit in _UNITS, "'s' or 'ms'"),
        ("max_deadline", max_deadline, number, "a number of seconds, more than 0"),
        ("count_statements", count_statements, count_statements in (True, False), "True or False"),
    ):
        if not right:
            msg = f"{name}={value!r} is not allowed; allowed: {allowed}"
            raise ValueError(msg)
