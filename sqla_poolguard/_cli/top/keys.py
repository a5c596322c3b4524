"""Waits for a key, a new size of the terminal, or for time to pass; and leaves the terminal as it was."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Keys"]

_QUIT = {b"q", b"Q", b"\x1b", b"\x03", b"\x04"}


class Keys:
    """The keyboard, for as long as a `with` block; without a terminal there are no keys."""

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before: Any = None
        with suppress(ImportError, OSError, ValueError):  # no such terminal
            import termios  # noqa: PLC0415 - there is none on Windows
            import tty  # noqa: PLC0415 - likewise

            self._before = termios.tcgetattr(sys.stdin.fileno())
            tty.setcbreak(sys.stdin.fileno())
        self._resized = signal.signal(signal.SIGWINCH, self._wake) if hasattr(signal, "SIGWINCH") else None
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(signal, "SIGWINCH"):
            signal.signal(signal.SIGWINCH, self._resized)
        if self._before is not None:
            import termios  # noqa: PLC0415 - it was there at the beginning

            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float) -> bool:
        """Wait; False when whoever looks wants to quit."""
        sources: list[Any] = [self._read, *([sys.stdin] if self._before is not None else [])]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._read in ready:
            os.read(self._read, 4096)
        if sys.stdin in ready:
            pressed = os.read(sys.stdin.fileno(), 1)
            return pressed not in _QUIT and pressed != b""
        return True

    def _wake(self, _signum: int, _frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(self._write, b"w")
