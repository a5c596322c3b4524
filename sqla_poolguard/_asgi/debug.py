"""The debug page: who may see it, and in which form."""

from __future__ import annotations

import inspect
import ipaddress
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from sqla_poolguard._asgi.page import draw
from sqla_poolguard._asgi.words import answer, answer_json, header
from sqla_poolguard._monitored import monitored
from sqla_poolguard._plain import plain
from sqla_poolguard._snapshot import guarded, snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sqla_poolguard._asgi.words import Receive, Scope, Send
    from sqla_poolguard._pool import GuardedPool

__all__ = ["DebugPage", "debug_page", "is_loopback"]

_SLOWEST: Final = 3600
_HEADERS: Final = (
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
)
_SINCE: Final = datetime.now(UTC).isoformat(timespec="milliseconds")
"""With the process id, of which each container has a 1: so that a reader sees that several processes answer."""
_PROXIED: Final = (b"forwarded", b"x-forwarded", b"x-real-ip", b"via")
"""What the headers begin with that a proxy adds."""


class DebugPage:
    """Shows pools to those who may see them; to others it is not there."""

    def __init__(
        self,
        engines: tuple[AsyncEngine | Engine | GuardedPool, ...],
        allow: Callable[[Scope], bool | Awaitable[bool]],
    ) -> None:
        self._engines = engines
        self._allow = allow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the page, with JSON, or with 404."""
        del receive
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        allowed = self._allow(scope)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if allowed is not True or scope["method"] not in {"GET", "HEAD"}:
            await answer(scope, send, 404, (("content-type", "text/plain; charset=utf-8"),), b"Not Found")
            return
        pools = [snapshot(engine) for engine in self._engines]
        told = [monitored(guarded(engine)) for engine in self._engines]
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        wishes = {name: values[-1] for name, values in parse_qs(scope.get("query_string", b"").decode("latin-1")).items()}
        if _wants_json(scope, wishes):
            await answer_json(
                scope,
                send,
                200,
                {
                    "at": at,
                    "pid": os.getpid(),
                    "since": _SINCE,
                    "pools": [{**plain(pool), "monitor": plain(each)} for pool, each in zip(pools, told, strict=True)],
                },
            )
        else:
            await answer(scope, send, 200, _HEADERS, draw(pools, at, _seconds(wishes.get("refresh", "")), told).encode())


def debug_page(
    *engines: AsyncEngine | Engine | GuardedPool,
    allow: Callable[[Scope], bool | Awaitable[bool]] | None = None,
) -> DebugPage:
    """
    Make an ASGI application that shows pools to a person: who holds, who waits, what was found wrong.

    Where a `PoolMonitor` of the engine runs in this process, it also shows what the server said of the holders' sessions.
    `?refresh=2` loads the page anew every two seconds; `?format=json`, or `Accept: application/json`, gives everything as JSON.
    Whoever is not allowed to see it gets 404.

    Args:
        engines: the engines to show, each with a `GuardedPool`.
        allow: called with the ASGI scope, tells whether to show it (only `True` does), may be a coroutine function.
            Default: to requests from this machine that came through no proxy and were addressed to `localhost`.

    Raises:
        TypeError: an engine has no `GuardedPool`, or there is none.
        ValueError: `allow` is not callable.
    """
    if not engines:
        msg = "debug_page() wants at least one engine"
        raise TypeError(msg)
    for engine in engines:
        snapshot(engine)
    given: object = allow
    if given is not None and not callable(given):
        msg = f"allow={allow!r} is not allowed; allowed: None or a callable that takes an ASGI scope"
        raise ValueError(msg)
    return DebugPage(engines, allow or is_loopback)


def is_loopback(scope: Scope) -> bool:
    """
    Tell whether a request comes from this very machine.

    A proxy on this machine does not count, nor does a browser that was led here under another name (DNS rebinding).
    """
    client = scope.get("client")
    proxied = any(name.lower().startswith(_PROXIED) for name, _ in scope.get("headers", ()))
    if not client or proxied or not _is_local(client[0]):
        return False
    hosts = header(scope, b"host")
    return len(hosts) == 1 and (_host(hosts[0]) == "localhost" or _is_local(_host(hosts[0])))


def _is_local(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _host(value: str) -> str:
    """Take the port off."""
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0].lower()


def _wants_json(scope: Scope, wishes: dict[str, str]) -> bool:
    if "format" in wishes:
        return wishes["format"] == "json"
    kinds = [kind.partition(";")[0].strip() for value in header(scope, b"accept") for kind in value.lower().split(",")]
    return "application/json" in kinds and "text/html" not in kinds


def _seconds(wish: str) -> int | None:
    """Read after how many seconds to load the page anew; None for never."""
    seconds = int(wish) if wish.isascii() and wish.isdigit() and len(wish) <= len(str(_SLOWEST)) else 0
    return seconds if 1 <= seconds <= _SLOWEST else None
