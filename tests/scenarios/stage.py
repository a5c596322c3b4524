"""What a scenario is, and the stage on which it plays: engines on a real PostgreSQL, and servers that are slow to answer."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import FindingKind, Guard, GuardedPool, Observer, _callsite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

# to an application, the server that calls it is a library
_callsite._kind_of_file[__file__] = _callsite._LIBRARY

PATIENCE = 0.06
"""`await_warning`, in seconds."""
LONG = 0.3
"""Seconds that a hold lasts which must be found, and a query that must not."""

HELD, NESTED = FindingKind.HELD_ACROSS_AWAIT, FindingKind.NESTED
ORPHANED, BLOCKED, LEAKED = FindingKind.ORPHANED, FindingKind.LOOP_BLOCKED, FindingKind.LEAKED

ONE = text("SELECT 1")
SLEEP = text(f"SELECT pg_sleep({LONG})")


@dataclass(frozen=True)
class Scenario:
    """A piece of an application's life, with the truth about it."""

    play: Callable[[Stage], Awaitable[None]]
    kinds: tuple[FindingKind, ...]
    """What must be found, any of them; empty: nothing may be."""
    driver: str = "asyncpg"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.play.__name__

    def lines(self) -> list[int]:
        """Find the lines that must be named: those that end in `# HERE`."""
        source, first = inspect.getsourcelines(self.play)
        return [first + offset for offset, line in enumerate(source) if line.rstrip().endswith("# HERE")]


SCENARIOS: list[Scenario] = []


def leak(*kinds: FindingKind, driver: str = "asyncpg", **options: Any) -> Callable[[Any], Any]:
    """Label a scenario in which a connection is held that should not be."""
    return lambda play: SCENARIOS.append(Scenario(play, kinds or (HELD,), driver, options)) or play


def innocent(*, driver: str = "asyncpg", **options: Any) -> Callable[[Any], Any]:
    """Label a scenario in which nothing is wrong."""
    return lambda play: SCENARIOS.append(Scenario(play, (), driver, options)) or play


class Findings(Observer):
    """Remembers what was found."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.at: list[float] = []
        """When each was told."""

    def found(self, finding: Any) -> None:
        """Remember a finding."""
        self.all.append(finding)
        self.at.append(time.monotonic())

    def leaked(self, checkout: Any) -> None:
        """Remember a leak, as a finding has it."""
        self.all.append(type("Leak", (), {"kind": LEAKED, "site": checkout.site, "current": None})())


class Stage:
    """Engines, and servers that take `LONG` to answer."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.findings = Findings()
        guard = Guard(
            **{"await_warning": PATIENCE, "hold_warning": None, "observers": (self.findings,), **options.pop("guard", {})}
        )
        options = {"pool_size": 4, "max_overflow": 0, "pool_timeout": 5, **options}
        self.db: AsyncEngine = create_async_engine(url, poolclass=GuardedPool, guard=guard, **options)
        self.other: AsyncEngine = create_async_engine(url)
        """Another database, with a pool that watches nothing."""
        self.kept: Any = None
        self.http: httpx.AsyncClient = None  # type: ignore[assignment]
        self.port = 0

    async def __aenter__(self) -> Self:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self._server = server
        self.port = server.sockets[0].getsockname()[1]
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, verify=False)
        for engine in (self.db, self.other):  # what follows is not about connecting
            async with engine.connect() as connection:
                await connection.execute(ONE)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()
        self._server.close()
        await self.db.dispose()
        await self.other.dispose()

    @staticmethod
    async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(LONG)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
            await writer.drain()
        writer.close()

    async def call(self, app: Any, path: str = "/") -> httpx.Response:
        """Ask a web application."""
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app", verify=False) as client:
            return await client.get(path)

    async def serve(self, app: Any, path: str = "/") -> None:
        """Ask a web application for an answer that it streams, and read it slowly, as a server does."""
        sent = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                sent.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("app", 80),
            "state": {},
        }
        await app(scope, receive, send)

    async def websocket(self, app: Any, path: str, message_after: float) -> None:
        """Talk to a web application over a WebSocket, and keep it waiting for the message."""
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "websocket.connect"}
            await asyncio.sleep(message_after)
            return {"type": "websocket.receive", "text": "hello"}

        async def send(message: dict[str, Any]) -> None:
            pass

        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("app", 80),
            "subprotocols": [],
            "state": {},
        }
        await app(scope, receive, send)
