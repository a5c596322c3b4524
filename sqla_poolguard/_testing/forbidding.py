"""Calls that must not be made while a connection is held: they raise at the guilty line, even where they are mocked and never suspend."""

from __future__ import annotations

import inspect
import sys
from asyncio import current_task
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard import _probe
from sqla_poolguard._awaits import chain_of
from sqla_poolguard._callsite import is_internal
from sqla_poolguard._facts import Site, shorten
from sqla_poolguard._holds import declared_in
from sqla_poolguard._sight import joined_deeply
from sqla_poolguard._testing.calls import expand, target_of

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Iterable
    from types import FrameType

    from sqla_poolguard._testing.stays import Stay

__all__ = ["ForbiddenCallError", "ForbiddenCalls"]

_UNBLAMED: Final = frozenset({"asyncio", "anyio", "asyncpg", "psycopg", "aiosqlite", "aiomysql", "asyncmy"})
"""Packages whose own calls are theirs to make."""
_IN_PROCESS: Final = frozenset({"ASGITransport", "WSGITransport", "_TestClientTransport"})
"""Transports of HTTP clients that call an application in this process."""


class ForbiddenCallError(AssertionError):
    """A call was made that `poolguard_forbidden_calls` forbids while a connection is held."""


class ForbiddenCalls:
    """Stands before some functions during a test; wherever they are mocked by then, before the mocks."""

    def __init__(self, calls: Iterable[str], held: Callable[[], Iterable[Stay]], tell: Callable[[Stay, Site, str], bool]) -> None:
        """
        Begin with nothing watched.

        Args:
            calls: `module:name` of each.
            held: gives the connections that are out and count.
            tell: is told of a call: the connection, the line, and what was called; says whether to raise.
        """
        self._calls = expand(calls)
        self._held = held
        self._tell = tell
        self._placed: list[tuple[Any, str, _Watched, bool]] = []

    def verify(self) -> None:
        """
        See whether there are such functions, as far as their modules are imported by now.

        Raises:
            ValueError: there is no such one.
        """
        for call in self._calls:
            target_of(call)

    def enter(self) -> None:
        """Stand before every function whose module is imported by now."""
        for call in self._calls:
            found = None
            with suppress(ValueError):
                found = target_of(call)
            if found is None:
                continue
            owner, name = found
            inner = inspect.getattr_static(owner, name)
            if isinstance(inner, _Watched):  # a mock was taken away from before it
                inner = inner._inner
            watched = _Watched(inner, partial(self._check, call), call.partition(":")[0].partition(".")[0])
            self._placed.append((owner, name, watched, name in vars(owner)))
            setattr(owner, name, watched)

    def leave(self) -> None:
        """Leave, where nobody has put something else in our place."""
        for owner, name, watched, was_own in reversed(self._placed):
            if vars(owner).get(name) is watched:
                if was_own:
                    setattr(owner, name, watched._inner)
                else:
                    delattr(owner, name)

    def forget(self) -> None:
        """Leave for good: also where a mock that came after us has gone since."""
        self.leave()
        self._placed.clear()

    def _check(self, call: str, at: Site | None, arguments: tuple[Any, ...]) -> None:
        """Raise if the running task has an idle connection, and has no excuse; `at` is the line that calls, None if that is a library's."""
        __tracebackhide__ = True
        if at is None or (call == "asyncio:sleep" and arguments and arguments[0] == 0):
            return
        if arguments and type(getattr(arguments[0], "_transport", None)).__name__ in _IN_PROCESS:
            return
        try:
            task = current_task()
        except RuntimeError:  # no loop runs here
            return
        if task is None or declared_in(copy_context()) is not None:
            return
        stay = next((stay for stay in self._held() if _has(stay, task)), None)
        if stay is None:
            return
        if self._tell(stay, at, call):
            msg = (
                f"{call} called at {shorten(at.file)}:{at.line} while a connection is held: "
                f"pool {stay.pool!r}, checked out at {stay.site}"
            )
            raise ForbiddenCallError(msg)


class _Watched:
    """Stands before a function, a method or a mock, and is otherwise what that is."""

    __slots__ = ("_check", "_first", "_inner", "_package")

    def __init__(self, inner: Any, check: Callable[[Site | None, tuple[Any, ...]], None], package: str, *first: Any) -> None:
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "_check", check)
        object.__setattr__(self, "_package", package)
        object.__setattr__(self, "_first", first)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if not hasattr(type(self._inner), "__get__"):  # a mock: it does not bind
            return self
        first = () if instance is None else (instance,)
        return _Watched(self._inner.__get__(instance, owner), self._check, self._package, *first)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        at = _calling_line(self._package)
        if inspect.iscoroutinefunction(self._inner):
            return self._call_later(at, args, kwargs)
        self._check(at, self._first + args)
        return self._inner(*args, **kwargs)

    async def _call_later(self, at: Site | None, args: Any, kwargs: Any) -> Any:
        """Check in the task that awaits it, which may be a child of the one that has called."""
        __tracebackhide__ = True
        self._check(at, self._first + args)
        return await self._inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._inner, name, value)


def _has(stay: Stay, task: Task[Any]) -> bool:
    """Tell whether a task has an idle connection, or does something for the one that has it."""
    holder, record = stay.holder, stay.record
    if holder is None or record is None:
        return False
    look = _probe.look(_probe.driver_of(record.dbapi_connection))
    if look is not None and look.busy:
        return False
    return holder is task or any(other is task for other in joined_deeply(chain_of(holder)))


def _calling_line(own: str) -> Site | None:
    """Give the line that makes the call, the first that is not in this file; None if the call is a library's own affair."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None or is_internal(frame.f_code.co_filename):
        return None
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] in {own, *_UNBLAMED}:
        return None
    return Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
