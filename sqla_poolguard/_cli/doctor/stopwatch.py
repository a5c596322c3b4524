"""Time the phases of a connect as the driver goes through them: a loop that watches what passes. It knows PostgreSQL's first messages."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NO_TLS", "WatchingLoop"]

_T = TypeVar("_T")
_HEADER: Final = 5
"""Bytes of a message's kind and length."""
_AUTHENTICATION, _READY, _ERROR = b"R", b"Z", b"E"
_NO_QUESTION: Final = frozenset({0, 12})
"""AuthenticationOk, which PostgreSQL sends together with the end of the session's start, and the last word of SCRAM."""
_NO_TLS: Final = b"N"
_TLS_ANSWERS: Final = (b"S", _NO_TLS)
NO_TLS: Final = "TLS asked for, not had"


class _Listener(asyncio.Protocol):
    """Hands everything on to the driver, and notes when it has been told who we are, and when the server is ready."""

    def __init__(self, driver: Any, note: Callable[[str], None]) -> None:
        self._driver, self._note = driver, note
        self._unread = b""
        self._listening = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._note("TCP")
        self._driver.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        answered = self._listening and self._read(data)
        self._driver.data_received(data)
        if answered:
            self._note("authentication")

    def connection_lost(self, exc: Exception | None) -> None:
        self._driver.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return bool(self._driver.eof_received())

    def pause_writing(self) -> None:
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        self._driver.resume_writing()

    def _read(self, data: bytes) -> bool:
        """Read messages; tell whether the server has asked who we are, which the driver answers at once."""
        if not self._unread and data in _TLS_ANSWERS:
            if data == _NO_TLS:
                self._note(NO_TLS)
            return False
        asked = False
        self._unread += data
        while len(self._unread) >= _HEADER:
            kind, length = self._unread[:1], int.from_bytes(self._unread[1:_HEADER], "big") + 1
            if len(self._unread) < length:
                break
            message, self._unread = self._unread[_HEADER:length], self._unread[length:]
            if kind == _AUTHENTICATION and int.from_bytes(message[:4], "big") not in _NO_QUESTION:
                asked = True
            elif kind in {_READY, _ERROR}:
                self._note("session start")
                self._listening, self._unread = False, b""
        return asked and self._listening


class WatchingLoop(asyncio.SelectorEventLoop):
    """
    An event loop that times the connections that are opened in it.

    `marks` holds when each phase of the last one ended, on the clock `time.perf_counter`, by name and in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.began = 0.0
        self.marks: dict[str, float] = {}
        self.tls: str | None = None

    def _note(self, phase: str) -> None:
        self.marks[phase] = time.perf_counter()

    async def aside(self, act: Callable[..., _T], *args: Any) -> _T:
        """
        Call a function in a thread that nobody waits for in the end: neither this loop nor Python.

        The threads of an executor are waited for; a name server, or a console, that does not answer would hold us up.
        """
        outcome: asyncio.Future[_T] = self.create_future()

        def deliver(give: Callable[[Any], None], value: Any) -> None:
            if not outcome.done():
                give(value)

        def run() -> None:
            try:
                give, value = outcome.set_result, act(*args)
            except Exception as error:  # noqa: BLE001 - it is the caller's
                give, value = outcome.set_exception, error  # type: ignore[assignment] # either takes what goes with it
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.call_soon_threadsafe(deliver, give, value)

        threading.Thread(target=run, daemon=True).start()
        return await outcome

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - its name in asyncio
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        return await self.aside(socket.getaddrinfo, host, port, family, type, proto, flags)

    @property
    def reached(self) -> bool:
        """Whether somebody has taken the last connection."""
        return "TCP" in self.marks

    def begin(self) -> None:
        """Forget the last connection."""
        self.marks, self.tls = {}, None
        self.began = time.perf_counter()

    def phases(self) -> list[tuple[str, float]]:
        """Give each phase and the seconds it took."""
        before, taken = self.began, []
        for phase, at in sorted(self.marks.items(), key=lambda mark: mark[1]):
            taken.append((phase, at - before))
            before = at
        return taken

    async def create_connection(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """Open a connection; whoever talks over it is listened to."""
        self._note("driver")
        transport, listener = await super().create_connection(lambda: _Listener(protocol_factory(), self._note), *args, **options)
        return self._tapped(transport), listener._driver

    async def create_unix_connection(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """Likewise, on a Unix socket."""
        self._note("driver")
        transport, listener = await super().create_unix_connection(
            lambda: _Listener(protocol_factory(), self._note), *args, **options
        )
        return self._tapped(transport), listener._driver

    async def start_tls(self, *args: Any, **options: Any) -> Any:
        """Encrypt a connection."""
        transport = await super().start_tls(*args, **options)
        self._note("TLS")
        if transport is not None:
            self.tls = transport.get_extra_info("ssl_object").version()
            self._tapped(transport)
        return transport

    def _tapped(self, transport: Any) -> Any:
        """Listen also to whoever takes the connection over."""
        hand_over = transport.set_protocol

        def set_protocol(protocol: Any) -> None:
            # SSLProtocol is asyncio's own, below the transport that start_tls() gives
            driver = type(protocol).__module__.partition(".")[0] == "asyncpg"
            hand_over(_Listener(protocol, self._note) if driver else protocol)

        transport.set_protocol = set_protocol
        return transport
