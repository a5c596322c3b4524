"""Calls that must not be made while a connection is held: they raise at the guilty line, even where they are mocked and never suspend."""

from __future__ import annotations

import inspect
import logging
import sys
from asyncio import current_task
from functools import partial
from threading import get_ident
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from sqla_poolguard import _probe
from sqla_poolguard._awaits import chain_of
from sqla_poolguard._callsite import is_application, is_internal
from sqla_poolguard._facts import Site, shorten
from sqla_poolguard._holds import declared_here
from sqla_poolguard._sight import joined_deeply
from sqla_poolguard._testing import guarding, replacing
from sqla_poolguard._testing.calls import OUTER, USUAL, expand, modules_of, package_of, target_of
from sqla_poolguard._testing.guarding import check_guardable, guarded, is_instance, put, take
from sqla_poolguard._testing.importing import when_imported
from sqla_poolguard._testing.replacing import (
    ANSWERING,
    is_function_of,
    is_mock,
    mock_behind,
    when_mocks_are_called,
    while_replacing,
)

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Iterable
    from types import FrameType

    from sqla_poolguard._testing.stays import Stay

__all__ = ["ForbiddenCallError", "ForbiddenCalls"]

_log: Final = logging.getLogger("sqla_poolguard")

_OF_MOCKS: Final = frozenset({replacing.__file__, mock.__file__})
"""Files through which a mock answers."""
_BETWEEN: Final = frozenset({__file__, guarding.__file__, *_OF_MOCKS})
"""Files that stand between a call and what is called."""
_DRIVERS: Final = frozenset({"asyncpg", "psycopg", "aiosqlite", "aiomysql", "asyncmy"})
"""Packages whose calls are the database's affair."""
_RUNNERS: Final = frozenset({"asyncio", "anyio"})
"""Packages that run tasks: nobody further out has called."""
_SLEEPS: Final = frozenset({"asyncio:sleep", "anyio:sleep"})
"""Calls that only let others have a turn, if it is for 0 seconds."""
_IN_PROCESS: Final = frozenset({"ASGITransport", "WSGITransport", "_TestClientTransport"})
"""Transports of HTTP clients that call an application in this process."""


class ForbiddenCallError(AssertionError):
    """A call was made that `poolguard_forbidden_calls` forbids while a connection is held."""


class ForbiddenCalls:
    """Stands before some functions during a test, and where they are mocked, behind the mocks."""

    def __init__(self, calls: Iterable[str], held: Callable[[], Iterable[Stay]], tell: Callable[[Stay, Site, str], bool]) -> None:
        """
        Begin with nothing watched.

        Args:
            calls: `module:name` of each.
            held: gives the connections that are out and count.
            tell: is told of a call: the connection, the line, and what was called; says whether to raise.
        """
        self._calls = expand(calls)
        self._unverified = dict.fromkeys(call for call in self._calls if call not in USUAL)  # of those, versions differ
        self._held = held
        self._tell = tell
        self._is_on = False
        self._is_aside = False
        """Whether somebody replaces something at this moment."""
        self._thread: int | None = None
        """The thread that runs the tests."""
        self._modules = 0
        """How many modules were imported when it last looked for functions."""
        self._guards: dict[tuple[int, str], tuple[Any, Any]] = {}
        """By owner and name: the function, and what stands before it."""
        self._placed: list[tuple[Any, str, bool]] = []
        """Where that stands now: owner, name, and whether the function was the owner's own."""
        self._mocks: dict[int, tuple[Any, str]] = {}
        """Mocks of these functions, and what they stand for."""
        self._owners: list[tuple[Any, str, str]] = []
        """Mocks of classes and objects that have such functions, the function's name, and what it stands for."""
        self._last: tuple[Stay, Site, str] | None = None
        """The call that was told last."""
        self._ends: list[Callable[[], None]] = []

    def verify(self) -> None:
        """
        See whether there are such functions, once for each, when its module is imported; not what tests put there later.

        Raises:
            ValueError: there is no such one, or it is none.
        """
        for call in self._unverified.copy():
            found = target_of(call)
            if found is not None and not is_mock(found[0]) and not is_mock(getattr(*found)):
                check_guardable(call, *found)
                del self._unverified[call]

    def enter(self) -> None:
        """Stand before every function whose module is imported by now, and know every mock that takes its place later."""
        if self._calls:
            self._is_on, self._thread = True, get_ident()
            self._stand()
            self._ends = [
                while_replacing(self._step_aside, self._stand),
                when_mocks_are_called(self._look),
                when_imported(modules_of(self._calls), self.look_again),
            ]

    def look_again(self) -> None:
        """Stand before the functions of modules that were imported since; nothing must come between a replacement, which may import, too."""
        if self._is_on and not self._is_aside and len(sys.modules) != self._modules and get_ident() == self._thread:
            self._step_aside()
            self._stand()

    def leave(self) -> None:
        """Leave."""
        if not self._is_on:
            return
        while self._ends:
            self._ends.pop()()
        self._step_aside()
        self._is_on, self._last = False, None
        self._guards.clear()

    def _stand(self) -> None:
        self._is_aside, self._modules = False, len(sys.modules)
        for call in self._calls:
            try:
                self._stand_before(call)
            except Exception as error:  # noqa: BLE001 - it is called in the midst of others' code
                _log.debug("%s is not watched in this test: %s", call, error)

    def _stand_before(self, call: str) -> None:
        found = target_of(call)
        if found is None:
            return
        owner, name = found
        if is_mock(owner):
            self._owners.append((mock_behind(owner), name, call))
            return
        inner = _found(owner, name)
        if call in OUTER and _is_of(inner, call):
            return
        if is_mock(inner):
            known = mock_behind(inner)
            self._mocks[id(known)] = known, call
            return
        check_guardable(call, owner, name)
        known, guard = self._guards.get((id(owner), name), (None, None))
        if known is not inner and not (is_instance(owner) and known == inner):
            guard = guarded(inner, partial(self._look_at, call, owner), lambda: self._is_on)
            self._guards[id(owner), name] = inner, guard
        self._placed.append((owner, name, name in vars(owner)))
        put(owner, name, guard)

    def _step_aside(self) -> None:
        self._is_aside = True
        for owner, name, was_own in self._placed:
            inner, guard = self._guards[id(owner), name]
            if vars(owner).get(name) is guard:  # else somebody has assigned something himself
                if was_own:
                    put(owner, name, inner)
                else:
                    take(owner, name)
        self._placed.clear()
        self._mocks.clear()
        self._owners.clear()

    def _look(self, called: Any, arguments: tuple[Any, ...]) -> Callable[[], None] | None:
        known, call = self._mocks.get(id(called), (None, ""))
        if known is not called:
            call = next((call for owner, name, call in self._owners if is_function_of(called, id(owner), name)), "")
        return self._look_at(call, None, arguments) if call else None

    def _look_at(self, call: str, owner: Any, arguments: tuple[Any, ...]) -> Callable[[], None]:
        """Look who calls, and give the check, for the task in which the function will run."""
        client = owner if is_instance(owner) else arguments[0] if arguments else None
        return partial(self._check, call, _calling_line(package_of(call)), client, arguments)

    def _check(self, call: str, at: Site | None, client: Any, arguments: tuple[Any, ...]) -> None:
        """Raise if the running task has an idle connection, and has no excuse; `at` is the line that calls, None if that is a library's."""
        __tracebackhide__ = True
        if at is None or (call in _SLEEPS and arguments and arguments[0] == 0):
            return
        if _calls_in_process(client):
            return
        try:
            task = current_task()
        except RuntimeError:  # no loop runs here
            return
        if task is None or declared_here() is not None:
            return
        stay = next((stay for stay in self._held() if _has(stay, task)), None)
        if stay is None or self._is_part(stay, at, call):
            return
        self._last = stay, at, call
        if self._tell(stay, at, call):
            msg = (
                f"{call} called at {shorten(at.file)}:{at.line} while a connection is held: "
                f"pool {stay.pool!r}, checked out at {stay.site}"
            )
            raise ForbiddenCallError(msg)

    def _is_part(self, stay: Stay, at: Site, call: str) -> bool:
        """Tell whether a call is what a library does for one that was told already, as `stream` sends when its block is entered."""
        if self._last is None:
            return False
        known, line, earlier = self._last
        return known is stay and line == at and earlier != call and package_of(earlier) == package_of(call)


def _found(owner: Any, name: str) -> Any:
    """Get what stands there, unbound if it is of a class."""
    if is_instance(owner):
        return getattr(owner, name)
    return vars(owner)[name] if name in vars(owner) else inspect.getattr_static(owner, name)


def _is_of(function: Any, call: str) -> bool:
    """Tell whether a function is the library's own, and nothing that somebody has put there."""
    return isinstance(function, FunctionType) and package_of(str(function.__globals__.get("__name__"))) == package_of(call)


def _has(stay: Stay, task: Task[Any]) -> bool:
    """Tell whether a task has an idle connection, or does something for the one that has it."""
    holder, record = stay.holder, stay.record
    if holder is None or record is None:
        return False
    look = _probe.look(_probe.driver_of(record.dbapi_connection))
    if look is not None and look.busy:
        return False
    return holder is task or any(other is task for other in joined_deeply(chain_of(holder)))


def _calls_in_process(client: Any) -> bool:
    """Tell whether an HTTP client calls an application in this process, for some addresses at least."""
    mounts = getattr(client, "_mounts", None)
    transports = [getattr(client, "_transport", None), *(mounts.values() if isinstance(mounts, dict) else ())]
    inner = [value for transport in transports for value in getattr(transport, "__dict__", {}).values()]  # of a wrapper
    return any(base.__name__ in _IN_PROCESS for transport in (*transports, *inner) for base in type(transport).__mro__)


def _calling_line(own: str) -> Site | None:
    """
    Give the line of the application that makes a call, be it through libraries.

    Args:
        own: the package of what is called, which may call itself.

    Returns:
        None if it is the database's affair, or part of a call that was looked at already.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in _BETWEEN:
        if frame.f_code in ANSWERING:
            return None
        frame = frame.f_back
    library: FrameType | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if is_application(file):
            return _site_of(frame)
        if frame.f_code in ANSWERING:
            return None
        if file not in _OF_MOCKS:
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
