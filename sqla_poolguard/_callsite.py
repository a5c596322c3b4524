"""Who is asking: the asyncio task and the line of application code. It keeps code objects, never frames."""

from __future__ import annotations

import os
import sys
import sysconfig
from asyncio import current_task
from typing import TYPE_CHECKING, Any, Final

import greenlet
import sqlalchemy
from greenlet import getcurrent
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from sqla_poolguard._facts import Site

if TYPE_CHECKING:
    import weakref
    from asyncio import Task
    from collections.abc import Callable
    from types import CodeType, FrameType

    from sqla_poolguard._guard import Capture

__all__ = ["Place", "capture", "is_application", "is_internal", "site_of", "stack_of", "task_name", "this_task"]

Place = tuple[Any, ...]
"""Positions in code, innermost first, flat: code object, offset of the instruction, code object, ... The first is the site."""

_STACK_DEPTH: Final = 16
_SEARCH_DEPTH: Final = 64

_INTERNAL, _LIBRARY, _APPLICATION, _BOUNDARY = range(1, 5)
_kind_of_file: dict[str, int] = {}
_internal_files: set[str] = set()
_application_files: set[str] = set()

_HERE: Final = os.path.dirname(__file__) + os.sep
_OUR_DOORS: Final = (_HERE + "_cli" + os.sep, _HERE + "testing")
_INTERNAL_ROOTS: Final = (
    os.path.dirname(sqlalchemy.__file__) + os.sep,
    os.path.dirname(greenlet.__file__) + os.sep,
    "<sqlalchemy generated ",  # what its decorators compile
)
_ASYNCIO: Final = os.path.dirname(sys.modules["asyncio"].__file__ or "") + os.sep
_LIBRARY_ROOTS: Final = tuple(
    path + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib") if (path := sysconfig.get_path(name))
)
_PACKAGE_FOLDERS: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_SESSION_RUN_SYNC: Final = AsyncSession.run_sync.__code__
_CONNECTION_RUN_SYNC: Final = AsyncConnection.run_sync.__code__


def this_task() -> Task[Any] | None:
    """Give the running task; None outside a task or outside a loop."""
    try:
        return current_task()
    except RuntimeError:
        return None


def task_name(task: weakref.ref[Task[Any]] | None) -> str | None:
    """Name a task that may be gone by now."""
    living = task() if task is not None else None
    return living.get_name() if living is not None else None


def capture(mode: Capture, skipped: int = 0) -> Callable[[int], Place | None]:
    """
    Choose how to remember the caller.

    Args:
        mode: see `Guard.capture`.
        skipped: how many of the application's own functions stand around `GuardedPool.connect()`, and are not the site.

    Returns:
        A function that takes the number of frames to go outwards from it to reach whoever called `connect()`.
    """
    search = {"site": _site, "stack": _stack, "off": _nothing}[mode]
    if not skipped:
        return search
    return lambda depth: search(depth + skipped + 1)


def is_application(file: str) -> bool:
    """Tell whether a file is the application's."""
    return (_kind_of_file.get(file) or _kind(file)) == _APPLICATION


def is_internal(file: str) -> bool:
    """Tell whether a file is SQLAlchemy's or ours."""
    return (_kind_of_file.get(file) or _kind(file)) == _INTERNAL


def site_of(place: Place | None) -> Site | None:
    """Read the site out of a place."""
    return _read(place[0], place[1]) if place else None


def stack_of(place: Place | None) -> tuple[Site, ...]:
    """Read the callers of the site, innermost first."""
    return tuple(_read(*place[at : at + 2]) for at in range(2, len(place), 2)) if place else ()


def _read(code: CodeType, offset: int) -> Site:
    line = code.co_firstlineno
    for start, end, at in code.co_lines():
        if start <= offset < end and at is not None:
            line = at
            break
    return Site(code.co_filename, line, code.co_qualname)


def _kind(file: str) -> int:
    """Tell whose code a file holds; asked once per file."""
    if file.startswith(_INTERNAL_ROOTS) or (file.startswith(_HERE) and not file.startswith(_OUR_DOORS)):
        kind = _INTERNAL
    elif file.startswith(_ASYNCIO) and os.path.basename(file) in {"events.py", "runners.py", "base_events.py"}:
        kind = _BOUNDARY  # below it begins whoever runs the loop
    elif (
        file.endswith(".pyx")
        or file.startswith((*_LIBRARY_ROOTS, "<frozen ", "<string>", _HERE))
        or any(folder in file for folder in _PACKAGE_FOLDERS)
    ):
        kind = _LIBRARY
    else:
        kind = _APPLICATION
    _kind_of_file[file] = kind
    if kind == _INTERNAL:
        _internal_files.add(file)
    elif kind == _APPLICATION:
        _application_files.add(file)
    return kind


def _site(depth: int) -> Place | None:
    """
    Find the line of the application that checks out, on the hot path.

    A checkout runs in a greenlet of SQLAlchemy's, and what called it is suspended in the parent greenlet,
    at `greenlet_spawn`: search outwards from there.
    But when the application runs its own synchronous function in the greenlet, search outwards from here.
    """
    internal = _internal_files
    frame: Any
    try:
        frame = getcurrent().parent.gr_frame.f_back  # type: ignore[union-attr] # where there is none, the search begins here
        code = frame.f_code
        file = code.co_filename
        if code is _SESSION_RUN_SYNC or code is _CONNECTION_RUN_SYNC or (file not in internal and not is_internal(file)):
            frame = _here(depth + 1)
        while (file := (code := frame.f_code).co_filename) in internal:
            frame = frame.f_back
        if file in _application_files:
            return (code, frame.f_lasti)
    except AttributeError:
        pass
    frame, _ = _site_frame(_here(depth + 1))
    return (frame.f_code, frame.f_lasti) if frame is not None else None


def _here(depth: int) -> FrameType | None:
    """Give a frame further out in this greenlet; None when it has no more."""
    try:
        return sys._getframe(depth)
    except ValueError:
        return None


def _start(here: FrameType | None) -> tuple[FrameType | None, bool]:
    """
    Give the frame from which to search outwards, and whether it is in the parent greenlet already.

    When the application runs its own synchronous function in the greenlet (`run_sync`, or `greenlet_spawn` itself),
    the search begins here.
    """
    parent = getcurrent().parent
    outer = parent.gr_frame if parent is not None else None
    if outer is None:
        return here, True
    caller = outer.f_back  # `outer` is greenlet_spawn
    if caller is not None and caller.f_code not in (_SESSION_RUN_SYNC, _CONNECTION_RUN_SYNC):
        file = caller.f_code.co_filename
        if (_kind_of_file.get(file) or _kind(file)) == _INTERNAL:
            return caller, True
    return here, False


def _outer() -> FrameType | None:
    parent = getcurrent().parent
    return parent.gr_frame if parent is not None else None


def _site_frame(here: FrameType | None) -> tuple[FrameType | None, bool]:
    """
    Find the innermost frame of the application, and tell whether it is in the parent greenlet.

    Without one (all code installed, say in a container), it is the innermost frame outside SQLAlchemy.
    """
    frame, crossed = _start(here)
    fallback: tuple[FrameType | None, bool] = (None, crossed)
    for _ in range(_SEARCH_DEPTH):
        if frame is None:
            if crossed:
                break
            frame, crossed = _outer(), True
            continue
        file = frame.f_code.co_filename
        kind = _kind_of_file.get(file) or _kind(file)
        if kind == _APPLICATION:
            return frame, crossed
        if kind == _LIBRARY:
            if fallback[0] is None:
                fallback = (frame, crossed)
        elif kind == _BOUNDARY:
            break
        frame = frame.f_back
    return fallback


def _stack(depth: int) -> Place | None:
    """Find the site, as `_site_frame` does, and its callers outside SQLAlchemy, on one way outwards."""
    internal, most = _internal_files, 2 * _STACK_DEPTH
    frame, crossed = _start(_here(depth + 1))
    positions: list[Any] = []
    is_found = False
    for _ in range(_SEARCH_DEPTH + most):
        if frame is None:
            if crossed:
                break
            frame, crossed = _outer(), True
            continue
        code = frame.f_code
        file = code.co_filename
        if file not in internal:
            kind = _kind_of_file.get(file) or _kind(file)
            if kind == _BOUNDARY:
                break
            if kind == _APPLICATION and not is_found:
                is_found = True
                positions.clear()  # a library's, that the site has called
            if kind != _INTERNAL:
                positions += (code, frame.f_lasti)
                if is_found and len(positions) >= most:
                    break
        frame = frame.f_back
    return tuple(positions[:most]) or None


def _nothing(_depth: int) -> None:
    return None
