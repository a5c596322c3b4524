"""The clients' side of HTTP: as little of it as one service needs, so that a thousand requests a second leave room for the service."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

__all__ = ["Answer", "Asking"]

_END_OF_HEAD = b"\r\n\r\n"


class Answer(NamedTuple):
    """What a service said."""

    status: int
    retry_after: float | None
    """Seconds."""
    body: bytes


class Asking:
    """Asks one service, over connections that are used again; who gives up (is cancelled) leaves."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[_Line] = deque()

    async def get(self, path: str, headers: str = "") -> Answer:
        """
        Ask.

        Args:
            path: with its query.
            headers: each of which ends with a line feed.

        Raises:
            OSError: there is nobody, or who was there left.
        """
        line = self._line()
        if line is None:
            _, line = await asyncio.get_running_loop().create_connection(_Line, "127.0.0.1", self._port)
        try:
            answer = await line.ask(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n".encode())
        except BaseException:
            line.leave()
            raise
        self._idle.append(line)
        return answer

    def _line(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if not line.is_closed:
                return line
        return None

    def close(self) -> None:
        """Leave."""
        while self._idle:
            self._idle.pop().leave()


class _Line(asyncio.Protocol):
    """One connection to a service."""

    def __init__(self) -> None:
        self.is_closed = False
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, request: bytes) -> Answer:
        """Send a request, and give what is said to it."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._received = b""
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_END_OF_HEAD)
        if not end or self._answer is None or self._answer.done():
            return
        first, *lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        if len(body) >= int(headers["content-length"]):
            told = headers.get("retry-after")
            self._answer.set_result(Answer(int(first.split(" ", 2)[1]), float(told) if told else None, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError())

    def leave(self) -> None:
        """Close it."""
        assert self._transport is not None
        self._transport.abort()
