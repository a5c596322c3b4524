"""A TCP proxy before PostgreSQL that can stop carrying, as a link with a dead peer does, and counts the server's answers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import make_url

if TYPE_CHECKING:
    from collections.abc import Callable

_READY_FOR_QUERY = ord("Z")


class Proxy:
    """A proxy for the length of an `async with`, in the loop of the test."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self._carries = asyncio.Event()
        self._carries.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.answers = 0
        """How often the server said that it is ready for the next query: one for each round trip."""

    @property
    def url(self) -> str:
        """The database's URL with this proxy in between."""
        port = self._server.sockets[0].getsockname()[1]
        return self._target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def stall(self) -> None:
        """Carry nothing from now on, in either direction; nobody is told."""
        self._carries.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        pumps = list(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await asyncio.sleep(0.01)  # the transports close

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._target.host, self._target.port)
        there = asyncio.create_task(self._pump(reader, server_writer, lambda _: None))
        back = asyncio.create_task(self._pump(server_reader, writer, _Answers(self)))
        pumps = {there, back}
        self._pumps |= pumps
        await asyncio.wait(pumps)
        self._pumps -= pumps
        for each in (writer, server_writer):
            each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, see: Callable[[bytes], None]) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._carries.wait()
                see(data)
                writer.write(data)
                await writer.drain()
            writer.write_eof()


class _Answers:
    """Reads the server's messages: a letter, four bytes of length, the rest."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._unread = bytearray()

    def __call__(self, data: bytes) -> None:
        unread = self._unread
        unread += data
        while len(unread) > 4 and len(unread) > (length := int.from_bytes(unread[1:5])):
            self._proxy.answers += unread[0] == _READY_FOR_QUERY
            del unread[: length + 1]


def without_tls(**options: Any) -> dict[str, Any]:
    """Give asyncpg's options for a link whose messages can be read."""
    return {"connect_args": {"ssl": False, **options}}
