"""What stands between the service and its database, and can fail: a proxy that passes bytes on, refuses, or swallows them."""

from __future__ import annotations

import asyncio

from doubles.database import Kind

__all__ = ["Proxy"]


class Proxy:
    """A TCP proxy in front of a server."""

    def __init__(self, host: str, port: int) -> None:
        """Make one that does not listen yet, for a server at this address."""
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._passes = asyncio.Event()
        self.port = 0

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._passes.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1000)
        self.port = self._server.sockets[0].getsockname()[1]

    async def fail(self, kind: Kind) -> None:
        """Drop every connection, and refuse new ones (`Kind.REFUSED`) or let them wait for ever (`Kind.BLACK_HOLE`)."""
        if kind is Kind.REFUSED and self._server is not None:
            self._server.close()
            self._server = None
        self._passes.clear()
        self._drop()

    async def heal(self) -> None:
        """Pass bytes on again; what waited until now is dropped."""
        self._drop()
        self._passes.set()
        if self._server is None:
            await self.start()

    async def stop(self) -> None:
        """Listen no more, and drop everything."""
        calls = list(self._calls)
        await self.fail(Kind.REFUSED)
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)  # only now they are closed

    def _drop(self) -> None:
        for call in self._calls:
            call.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        ends = [writer]
        try:
            await self._passes.wait()
            there, back = await asyncio.open_connection(*self._target)
            ends.append(back)
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._calls.discard(call)
            for end in ends:
                end.transport.abort()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    message = "closed"
    raise ConnectionResetError(message)  # and so is the other direction
