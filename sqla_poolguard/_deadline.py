"""Bound what a greenlet awaits: `asyncio.timeout` for code that cannot say `async with`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from sqla_poolguard._callsite import this_task

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

__all__ = ["Deadline", "DeadlinePassed"]


class DeadlinePassed(Exception):  # noqa: N818 - a signal between rooms of the shell, never seen by a caller
    """The deadline passed inside the block."""


class Deadline:
    """
    Cancel what the block awaits after some seconds and raise `DeadlinePassed`.

    A cancellation from elsewhere goes through as what it is.
    Outside a task nothing can be cancelled, and nothing is bounded.
    """

    __slots__ = ("_timeout",)

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(max(seconds, 0.0)) if seconds < float("inf") and this_task() is not None else None

    def __enter__(self) -> Self:
        if self._timeout is not None:
            _run(self._timeout.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timeout is None:
            return
        try:
            _run(self._timeout.__aexit__(kind, error, trace))
        except TimeoutError:
            raise DeadlinePassed from error
        if self._timeout.expired() and isinstance(error, Exception):
            raise DeadlinePassed from error  # the driver made an error of its own out of our cancellation


def _run(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    msg = "bug: asyncio.Timeout suspended"
    raise AssertionError(msg)
