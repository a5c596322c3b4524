"""Whose are the threads of a test run: a test's that has left them over, or everybody's."""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from asyncio import BaseEventLoop
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread

    from sqla_poolguard._testing.stays import Owner

__all__ = ["Threads"]

_POOLED: Final = frozenset({"concurrent", "anyio", "multiprocessing"})
"""Packages whose threads work for everybody."""
_RUN_FOREVER: Final = BaseEventLoop.run_forever.__code__
_RUN_UNTIL_COMPLETE: Final = BaseEventLoop.run_until_complete.__code__


class Threads:
    """Threads, and who has left them over; what a thread begins is its owner's, too."""

    def __init__(self) -> None:
        self._owners: weakref.WeakKeyDictionary[Thread, Owner | None] = weakref.WeakKeyDictionary()
        """None: what it does, it does for every test."""
        self._last: list[Thread] = []
        """The threads that there were when somebody looked last."""
        self._are_left = False
        """Whether anybody has left any."""

    def owner(self) -> Owner | None:
        """Tell who has left over the thread that runs."""
        return self._owners.get(threading.current_thread()) if self._are_left else None

    def mark(self, owner: Owner | None) -> None:
        """
        Note whose are the threads that have begun since somebody looked last.

        Args:
            owner: who has left them; None if they work for whichever test runs, as those of a pool do in any case.
        """
        threads = threading.enumerate()
        if threads == self._last:
            return
        self._last = threads
        for thread in threads:
            if thread not in self._owners:
                self._note(thread, None if _works_for_all(thread) else owner)

    def watch(self, beginner: Callable[[], Owner | None]) -> Callable[[], None]:
        """
        Note from now on what a thread is begun by.

        Args:
            beginner: tells whose is what is done now; None if it is nothing that was left over.

        Returns:
            A function that ends it.
        """
        start, is_on = threading.Thread.start, True

        @functools.wraps(start)
        def seen_start(thread: Thread) -> None:
            owner = beginner() if is_on else None
            if owner is not None and not _is_pooled(thread):
                self._note(thread, owner)
            start(thread)

        def end() -> None:
            nonlocal is_on
            is_on = False
            if threading.Thread.start is seen_start:  # else somebody stands before it, and calls it
                threading.Thread.start = start  # type: ignore[method-assign]

        threading.Thread.start = seen_start  # type: ignore[method-assign, assignment]
        return end

    def _note(self, thread: Thread, owner: Owner | None) -> None:
        self._owners[thread] = owner
        self._are_left = self._are_left or owner is not None


def _works_for_all(thread: Thread) -> bool:
    """Tell whether a thread does what anybody gives it: one of a pool, or one that does nothing but run an event loop for ever."""
    if _is_pooled(thread) or getattr(getattr(thread, "_target", None), "__name__", None) == "run_forever":
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code is not _RUN_FOREVER:
        frame = frame.f_back
    return frame is not None and (frame.f_back is None or frame.f_back.f_code is not _RUN_UNTIL_COMPLETE)


def _is_pooled(thread: Thread) -> bool:
    return not _POOLED.isdisjoint({_package(getattr(thread, "_target", None)), _package(type(thread))})


def _package(value: Any) -> str:
    return str(getattr(value, "__module__", "")).partition(".")[0]
