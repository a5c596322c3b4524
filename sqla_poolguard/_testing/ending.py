"""Tells when an event loop is ended, as asyncio's runners do it: they cancel what is left, and close what generators keep open."""

from __future__ import annotations

import functools
import logging
import sys
import weakref
from asyncio import runners
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, Final

from greenlet import getcurrent

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from types import FrameType

__all__ = ["is_loop_ending", "when_loops_end"]

_log: Final = logging.getLogger("sqla_poolguard")

_FIRST_STEP: Final = "_cancel_all_tasks"
"""How `asyncio.Runner`, and with it `asyncio.run`, unittest, pytest-asyncio and anyio, begin to end a loop."""

_listeners: Final[list[Callable[[AbstractEventLoop], None]]] = []
_ending: Final[weakref.WeakSet[AbstractEventLoop]] = weakref.WeakSet()
"""Event loops that have begun to end, and live."""


def when_loops_end(tell: Callable[[AbstractEventLoop], None]) -> Callable[[], None]:
    """
    Be told of every event loop when its code is over, before its tasks are cancelled.

    Args:
        tell: is called with the loop, which does not run at that moment, but can; in the loop's thread.

    Returns:
        What ends this.
    """
    if not _listeners:
        _wrap()
    _listeners.append(tell)

    def forget() -> None:
        if tell in _listeners:
            _listeners.remove(tell)
            if not _listeners:
                _unwrap()

    return forget


def is_loop_ending() -> bool:
    """Tell whether the event loop that runs here has begun to end; the garbage collector may call."""
    loop = _get_running_loop()
    return (loop is not None and loop in _ending) or _is_below_first_step()


def _is_below_first_step() -> bool:
    """Tell likewise by the stack, where a framework has a step of its own, or got asyncio's before we stood there."""
    frame: FrameType | None = sys._getframe(1)
    inside = getcurrent()
    while frame is not None:
        if frame.f_code.co_name == _FIRST_STEP:
            return True
        frame = frame.f_back
        if frame is None and inside.parent is not None:
            inside = inside.parent
            frame = inside.gr_frame
    return False


def _wrap() -> None:
    """Stand before the first step, if this Python has it."""
    step: Any = getattr(runners, _FIRST_STEP, None)
    if step is None:
        return

    @functools.wraps(step)
    def told_before(loop: AbstractEventLoop) -> None:
        for tell in tuple(_listeners):
            try:
                tell(loop)
            except Exception:  # noqa: BLE001 - the loop ends nevertheless
                _log.exception("bug: the end of an event loop could not be watched")
        _ending.add(loop)
        step(loop)

    setattr(runners, _FIRST_STEP, told_before)


def _unwrap() -> None:
    """Leave it as it was."""
    step: Any = getattr(runners, _FIRST_STEP, None)
    if hasattr(step, "__wrapped__"):
        setattr(runners, _FIRST_STEP, step.__wrapped__)
