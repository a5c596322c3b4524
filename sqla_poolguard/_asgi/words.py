"""What ASGI calls things, and the two ways to answer a request at once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

__all__ = ["App", "Headers", "Message", "Receive", "Scope", "Send", "answer", "answer_json", "header"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Iterable[tuple[str, str]]


def header(scope: Scope, name: bytes) -> list[str]:
    """Give every value of a request's header; the name in lower case."""
    return [value.decode("latin-1") for key, value in scope.get("headers", ()) if key.lower() == name]


async def answer(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Answer a request, or refuse a WebSocket by an HTTP response; HEAD is told the length, and nothing else."""
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{kind}.start", "status": status, "headers": raw})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


async def answer_json(scope: Scope, send: Send, status: int, content: object) -> None:
    """Answer a request with JSON that no cache keeps."""
    headers = (("content-type", "application/json"), ("cache-control", "no-store"))
    await answer(scope, send, status, headers, json.dumps(content).encode())
