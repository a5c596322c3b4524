"""The payment provider: somebody else's slow HTTP service, in a process other than the shop's."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from sqla_poolguard._cli.demo.settings import PAYMENT_SECONDS

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Payments"]

_RECEIPT: Final = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\nConnection: close\r\n\r\n{"charged":true}'
)


class Payments:
    """
    Answers when nobody has asked for `PAYMENT_SECONDS`, while it is entered.

    So those who ask together wait together, however slowly they come on a busy machine.
    """

    def __init__(self) -> None:
        self._calls: set[asyncio.Task[None]] = set()
        self._last_asked_at = 0.0
        self.waiting = 0
        """Requests that have no answer yet."""
        self.url = ""
        """Where it listens."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for call in self._calls:
            call.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.create_task(self._answer(reader, writer))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, EOFError):
                await reader.readuntil(b"\r\n\r\n")
                await self._think()
                writer.write(_RECEIPT)
                await writer.drain()
        finally:
            writer.close()

    async def _think(self) -> None:
        self._last_asked_at = time.monotonic()
        self.waiting += 1
        try:
            while True:
                rest = self._last_asked_at + PAYMENT_SECONDS - time.monotonic()
                if rest <= 0:
                    return
                await asyncio.sleep(rest)
        finally:
            self.waiting -= 1
