"""Clients of ASGI applications: an ordinary one, and one that sees every message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from doubles.pools import engine
from sqla_poolguard import Guard, GuardedPool

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from doubles.driver import FakeDriver


def small(driver: FakeDriver | None = None, name: str = "orders", **options: Any) -> AsyncEngine:
    """Make an engine with one connection, that nobody waits long for."""
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.01, "guard": Guard(name=name), **options}
    return engine(driver, pool=GuardedPool, **options)


async def ask(
    app: Any, method: str = "GET", url: str = "/", *, client: tuple[str, int] = ("127.0.0.1", 5), **options: Any
) -> httpx.Response:
    """Send one request, from this machine unless said; what the application raises is raised here."""
    transport = httpx.ASGITransport(app, client=client)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
        return await web.request(method, url, **options)


def scope(kind: str = "http", **parts: Any) -> dict[str, Any]:
    """Give the scope of a request, or of a WebSocket."""
    return {"type": kind, "asgi": {"version": "3.0"}, "path": "/", "query_string": b"", "headers": [], **parts} | (
        {"method": parts.get("method", "GET")} if kind == "http" else {}
    )


async def messages(app: Any, kind: str = "http", *received: str, fails: Exception | None = None, **parts: Any) -> list[Any]:
    """Serve one connection and give what was sent; whoever sends gets the error, if there is one."""
    sent: list[Any] = []
    incoming = iter(received or {"http": ("http.request",), "websocket": ("websocket.connect",)}.get(kind, ()))

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": next(incoming)}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        sent.append(message)
        if fails is not None:
            raise fails

    await app(scope(kind, **parts), receive, send)
    return sent
