"""The server process seen from the acts: start it, hear its log, end it. It knows nothing of what is served."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from sqla_poolguard._cli.demo.trouble import DemoError

if TYPE_CHECKING:
    from types import TracebackType

    from sqla_poolguard._cli.demo.settings import ServerSettings

__all__ = ["LogLine", "ServerProcess"]

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_LINE_LIMIT: Final = 1 << 20
# our own sys.path, so that it runs what we run, and nothing else that lies in the current folder
_PROGRAM: Final = "import sys; sys.path[:] = sys.argv[1:]; from sqla_poolguard._cli.demo.server import main; main()"


@dataclass(frozen=True, slots=True)
class LogLine:
    """What the server process logged."""

    logger: str
    level: str
    message: str
    error: str | None
    """Text of the exception that was logged with it."""


class ServerProcess:
    """Runs while it is entered. A session of its own keeps ctrl-C in the terminal from it; the end of its input ends it."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._last_words: deque[str] = deque(maxlen=20)
        self._readers: list[asyncio.Task[None]] = []
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.log: list[LogLine] = []
        """All that was logged so far."""
        self.url = ""
        """Where it listens."""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _PROGRAM, *sys.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_LIMIT,
        )
        try:
            self._readers = [asyncio.create_task(self._hear()), asyncio.create_task(self._overhear())]
            assert self._process.stdin is not None  # noqa: S101 - it is a pipe
            self._process.stdin.write(json.dumps(self._settings.to_json()).encode() + b"\n")
            async with asyncio.timeout(_START_SECONDS):
                self.url = f"http://127.0.0.1:{await self._port}"
        except BaseException as error:
            await self._stop()
            if isinstance(error, TimeoutError):
                msg = f"the demo's web server was not up within {_START_SECONDS:.0f} s; is this machine very busy?"
                raise DemoError(msg) from error
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()

    async def _stop(self) -> None:
        process = self._process
        try:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            for reader in self._readers:
                reader.cancel()
            self._port.cancel()

    async def _hear(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        while line := await self._process.stdout.readline():
            self._take(json.loads(line))
        if not self._port.done():
            await asyncio.wait([self._readers[1]], timeout=1)
            self._port.set_exception(self.ended())

    def _take(self, said: dict[str, Any]) -> None:
        event = said.pop("event")
        if event == "log":
            self.log.append(LogLine(**said))
        elif event == "ready" and not self._port.done():
            self._port.set_result(said["port"])

    async def _overhear(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        while line := await self._process.stderr.readline():
            self._last_words.append(line.decode(errors="replace").rstrip())

    def ended(self) -> DemoError:
        """Say that it ended or answers no more, and its last words."""
        words = next((line for line in reversed(self._last_words) if line.strip()), "it said nothing")
        return DemoError(f"the demo's web server ended or answers no more; its last words: {words}")
