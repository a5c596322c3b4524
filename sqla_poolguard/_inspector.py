"""
Lets `poolguard top` look into this process: a local socket, and a thread that answers whoever opens it with all pools as JSON.

A thread, and not a task: it answers while the event loop stands still, which is when somebody wants to look, and says so; and it
outlives any loop. Each question has the loops look once at what their holders do, as a snapshot does; nothing else is changed.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard import _runtime
from sqla_poolguard._fork import pools
from sqla_poolguard._monitored import monitored
from sqla_poolguard._plain import plain

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from pathlib import Path

__all__ = ["document", "open_inspector"]

_log: Final = logging.getLogger("sqla_poolguard")

_PATIENCE: Final = 1.0
"""Seconds in which whoever asks has to take the answer."""
_STANDSTILL: Final = 0.5
"""Seconds after which an event loop that has not come round stands still."""
_PRESENT: Final = 60.0
"""Seconds after which it is seen to that the socket's file is still there: whoever cleans the temp folder may have removed it."""
_LOOKS: Final = 5
_CANNOT: Final = (
    OSError,
    AttributeError,  # no such sockets on this system
    RuntimeError,  # no thread can be had
    _runtime.UnsafeFolderError,
)
VERSION: Final = 1
"""Of the document; it rises when what is in it changes its meaning."""


class _Inspector:
    """The socket of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid: int | None = None
        """The process for which it was opened, or could not be."""
        self._socket: socket.socket | None = None
        self._path: Path | None = None

    def open(self) -> None:
        """Open it, once in each process; where that cannot be, say so, and go on without."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            try:
                folder = _runtime.folder()
                _runtime.prepare(folder)
                path = _runtime.socket_of(folder, self._pid)
                path.unlink(missing_ok=True)  # of a process that crashed, and had our number
                self._listen(path)
                threading.Thread(target=_serve, name="poolguard inspector", daemon=True).start()
            except _CANNOT as error:
                self._close()
                _log.warning("inspect=True: `poolguard top` cannot look into this process: %s", error)
            else:
                _log.info("`poolguard top` can look into this process at %s", path)

    def _listen(self, path: Path) -> None:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(8)
            listening.settimeout(_PRESENT)
        except BaseException:
            listening.close()
            raise
        self._socket, self._path = listening, path

    def accept(self) -> socket.socket | None:
        """
        Wait for whoever asks; None if nobody has for a while.

        Raises:
            OSError: it is closed.
        """
        listening = self._socket
        if listening is None:
            msg = "closed"
            raise OSError(msg)
        try:
            return listening.accept()[0]
        except TimeoutError:
            return None
        except OSError:
            if self._socket is not listening:
                raise
            time.sleep(_PATIENCE)  # the process may have no file left: that is when somebody wants to look, later
            return None

    def reopen(self) -> None:
        """Open it anew if its file is gone; where that cannot be, try again the next time. What somebody else put there stays."""
        with self._lock:
            gone, path = self._socket, self._path
            if gone is None or path is None or os.path.lexists(path):
                return
            try:
                _runtime.prepare(path.parent)
                self._listen(path)
            except _CANNOT as error:
                _log.debug("the socket of `poolguard top` is gone, and cannot be opened anew: %s", error)
                return
            gone.close()
        _log.info("the socket of `poolguard top` was gone; it is open again at %s", path)

    def close(self) -> None:
        """Remove the socket, at exit."""
        with self._lock:
            if self._pid == os.getpid():
                self._close()

    def _close(self) -> None:
        path, listening, self._path, self._socket = self._path, self._socket, None, None
        if path is not None:
            with suppress(OSError):
                path.unlink()
        if listening is not None:
            listening.close()

    def forget(self) -> None:
        """Begin anew, in a forked child: the socket's file is the parent's, and its thread is not here."""
        listening, self._socket, self._path = self._socket, None, None
        self._lock = threading.Lock()  # another thread of the parent may have held it
        if listening is not None:
            listening.close()


_inspector: Final = _Inspector()


def open_inspector() -> None:
    """Open the socket of this process, if it is not open."""
    _inspector.open()


def document() -> dict[str, Any]:
    """Give all pools of this process that are in use, in plain values."""
    current = _current()
    stands_still = not _look_in_loops(current)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "program": os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else "",  # arguments may be secret
        "at": now,
        "stands_still": stands_still,
        "pools": [_look(pool) for pool in current],
    }


def _current() -> list[Any]:
    return sorted((pool for pool in pools() if not pool._slots.retired), key=lambda pool: pool.name)


def _look_in_loops(current: list[Any]) -> bool:
    """Have each event loop look at what its holders do; False if one of them has no time for it: then what was seen last is shown."""
    asked = []
    for pool in current:
        loop, seen = pool._watch.home, threading.Event()
        if loop is not None and loop.is_running():
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(_look_now, pool, loop, seen)
                asked.append(seen)
    until = time.monotonic() + _STANDSTILL
    return all(seen.wait(max(until - time.monotonic(), 0.0)) for seen in asked)


def _look_now(pool: Any, loop: AbstractEventLoop, seen: threading.Event) -> None:
    try:
        pool._watch.sampler.look_now(loop)
    finally:
        seen.set()


def _look(pool: Any) -> Any:
    """Look at a pool from this thread; its own may change something meanwhile."""
    for _ in range(_LOOKS):
        with suppress(RuntimeError):  # a container changed while we went through it
            return _plain(pool)
    return _plain(pool)


def _plain(pool: Any) -> Any:
    seen = pool._watch.reporter.snapshot(pool._slots, pool._clock())
    return {**plain(seen), "monitor": plain(monitored(pool))}


def _serve() -> None:
    """Answer, one after the other, until the socket is closed; see to it now and then that it can be found."""
    while True:
        try:
            asking = _inspector.accept()
        except OSError:  # closed
            return
        if asking is None:
            _inspector.reopen()
            continue
        with asking:
            try:
                asking.settimeout(_PATIENCE)
                asking.sendall(json.dumps(document()).encode() + b"\n")
            except OSError:  # gone, or it does not read
                continue
            except Exception:  # noqa: BLE001 - who looks must not be able to end it
                _log.exception("the inspector could not answer")


atexit.register(_inspector.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inspector.forget)
