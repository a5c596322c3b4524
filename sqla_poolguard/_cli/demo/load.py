"""
The HTTP load: a crowd of clients that ask at once, each over a socket of its own. It knows nothing of pools.

The clients are bare, because a full one costs more processor time than the server it asks, and the burst would measure it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Answer", "Crowd"]

_TIMEOUT: Final = 90.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one client got."""

    status: int
    """HTTP status."""
    headers: dict[str, str]
    """Header fields, names in lower case."""
    body: str
    """The content."""
    seconds: float
    """From asking to the last byte."""


class _Client:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self, method: str, path: str) -> Answer:
        asked_at = time.perf_counter()
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(status.split(" ")[1]), headers, body.decode(), time.perf_counter() - asked_at)


class Crowd:
    """Some hundred clients, connected as long as it is entered."""

    def __init__(self, url: str, people: int) -> None:
        self.people = people
        self._address = urlsplit(url)
        self._clients: list[_Client] = []

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self.people):
                self._clients.append(_Client(*await asyncio.open_connection(self._address.hostname, self._address.port)))
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        for client in self._clients:
            client.writer.close()

    async def ask(self, method: str, path: str, answered: Callable[[], object] = lambda: None) -> list[Answer]:
        """
        Let everybody ask at once.

        Args:
            method: HTTP method.
            path: what to ask for.
            answered: called at every answer.

        Returns:
            The answers, in the order of the clients.
        """

        async def one(client: _Client) -> Answer:
            answer = await client.ask(method, path)
            answered()
            return answer

        async with asyncio.timeout(_TIMEOUT), asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(client)) for client in self._clients]
        return [task.result() for task in tasks]
