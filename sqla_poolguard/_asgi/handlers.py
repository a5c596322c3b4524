"""The same answer as an exception handler of a framework, which is imported when the first answer is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from sqla_poolguard._asgi.middleware import CLOSE_REASON, TRY_AGAIN_LATER
from sqla_poolguard._asgi.reply import journal, reply_to
from sqla_poolguard._asgi.saturation import SATURATION

if TYPE_CHECKING:
    from litestar import Request as LitestarRequest
    from litestar import Response as LitestarResponse
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from sqla_poolguard._asgi.saturation import Saturation

__all__ = ["add_exception_handlers", "litestar_handlers", "no_connection"]


def add_exception_handlers(app: Starlette) -> None:
    """
    Let a Starlette or FastAPI application answer 503 where a route got no connection.

    Args:
        app: the application.
    """
    for kind in SATURATION:
        app.add_exception_handler(kind, no_connection)  # type: ignore[arg-type] # it takes a WebSocket as well


async def no_connection(request: Request | WebSocket, error: Exception) -> Response | None:
    """
    Answer 503: an exception handler for Starlette and FastAPI.

    Args:
        request: the request, or the WebSocket; that one is refused, or closed with code 1013.
        error: a `CheckoutError` or `DatabaseUnavailable`.
    """
    from starlette.responses import Response  # noqa: PLC0415 - only who uses Starlette has it
    from starlette.websockets import WebSocketState  # noqa: PLC0415 - likewise

    status, headers, body = _answer(request.scope, error)
    response = Response(body, status, headers)
    if request.scope["type"] == "http":
        return response
    socket = cast("WebSocket", request)
    can_refuse = "websocket.http.response" in (socket.scope.get("extensions") or {})
    if can_refuse and socket.application_state is WebSocketState.CONNECTING:
        await socket.send_denial_response(response)
    elif WebSocketState.DISCONNECTED not in {socket.application_state, socket.client_state}:
        await socket.close(TRY_AGAIN_LATER, CLOSE_REASON)
    return None


def _litestar(request: LitestarRequest[Any, Any, Any], error: Exception) -> LitestarResponse[bytes]:
    from litestar import Response  # noqa: PLC0415 - only who uses Litestar has it

    status, headers, body = _answer(request.scope, error)
    return Response(body, status_code=status, media_type=headers.pop("content-type"), headers=headers)


def _answer(scope: Any, error: Exception) -> tuple[int, dict[str, str], bytes]:
    """Note a refusal, and give status, headers and body; HEAD is told the length, and has no body."""
    found = cast("Saturation", error)
    reply = reply_to(found)
    journal.note(found)
    headers = {**dict(reply.headers), "content-length": str(len(reply.body))}
    return reply.status, headers, b"" if scope.get("method") == "HEAD" else reply.body


litestar_handlers: Final[dict[int | type[Exception], Any]] = dict.fromkeys(SATURATION, _litestar)
"""For `Litestar(exception_handlers=...)`: answers 503 where a route got no connection."""
