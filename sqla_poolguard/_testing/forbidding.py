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
from sqla_poolguard._callsite import is_application, is_internal
from sqla_poolguard._facts import Site, shorten
from sqla_poolguard._holds import declared_in
from sqla_poolguard._sight import joined_deeply
from sqla_poolguard._testing.calls import expand, target_of
from sqla_poolguard._testing.replacing import around_replacements

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Iterable
    from types import FrameType

    from sqla_poolguard._testing.stays import Stay

__all__ = ["ForbiddenCallError", "ForbiddenCalls"]

_DRIVERS: Final = frozenset({"asyncpg", "psycopg", "aiosqlite", "aiomysql", "asyncmy"})
"""Packages whose calls are the database's affair."""
_RUNNERS: Final = frozenset({"asyncio", "anyio"})
"""Packages that run tasks: nobody further out has called."""
_IN_PROCESS: Final = frozenset({"ASGITransport", "WSGITransport", "_TestClientTransport"})
"""Transports of HTTP clients that call an application in this process."""


class ForbiddenCallError(AssertionError):
    """A call was made that `poolguard_forbidden_calls` forbids while a connection is held."""


class ForbiddenCalls:
    """Stands before some functions during a test; where they are mocked, before the mocks."""

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
        self._end_stepping: Callable[[], None] | None = None

    def verify(self) -> None:
        """
        See whether there are such functions, as far as their modules are imported by now.

        Raises:
            ValueError: there is no such one.
        """
        for call in self._calls:
            target_of(call)

    def enter(self) -> None:
        """Stand before every function whose module is imported by now, and before every mock that is put in its place later."""
        if self._calls:
            self._stand()
            self._end_stepping = around_replacements(self._step_aside, self._stand)

    def leave(self) -> None:
        """Leave."""
        if self._end_stepping is not None:
            self._end_stepping()
            self._end_stepping = None
            self._step_aside()

    def _stand(self) -> None:
        for call in self._calls:
            found = None
            with suppress(ValueError):
                found = target_of(call)
            if found is None:
                continue
            owner, name = found
            inner = inspect.getattr_static(owner, name)
            if not isinstance(
                inner, _Watched
            ):  # else somebody has assigned it himself, or a run of pytest inside of this one looks on
                watched = _Watched(inner, partial(self._check, call), call.partition(":")[0].partition(".")[0])
                self._placed.append((owner, name, watched, name in vars(owner)))
                setattr(owner, name, watched)

    def _step_aside(self) -> None:
        for owner, name, watched, was_own in self._placed:
            now = vars(owner).get(name)
            if now is watched and not was_own:
                delattr(owner, name)
            elif isinstance(now, _Watched):
                setattr(owner, name, now._inner)
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
    """
    Give the line of the application that makes a call, be it through libraries.

    Args:
        own: the package of what is called, which may call itself.

    Returns:
        None if it is the database's affair, or part of a call that is looked at already.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    library: FrameType | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if is_application(file):
            return _site_of(frame)
        if is_internal(file) or package in _DRIVERS:
            return None
        if package in _RUNNERS:
            break
        if library is None and package != own:
            library = frame
        frame = frame.f_back
    return _site_of(library) if library is not None else None


def _site_of(frame: FrameType) -> Site:
    return Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
