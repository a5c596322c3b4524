"""
What a suspended task awaits: its chain of coroutines, down to the line of the application and to what it waits for.

Pure inspection: nothing is patched, and nothing of what is seen is kept. It tells who is to be named for a gap
that is a fact already; it never decides whether there is one.
"""

from __future__ import annotations

import gc
import sys
from asyncio import Future, Task
from inspect import CO_ASYNC_GENERATOR, CO_OPTIMIZED
from types import AsyncGeneratorType, CellType, CoroutineType, GeneratorType, MethodType
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._callsite import is_application, is_internal
from sqla_poolguard._facts import Site
from sqla_poolguard._joins import is_shield

if TYPE_CHECKING:
    from contextvars import Context
    from types import CodeType, FrameType

__all__ = ["CONTEXTS_ARE_TOLD", "Chain", "Hop", "chain_of", "context_of", "task_context"]

CONTEXTS_ARE_TOLD: Final = hasattr(Task, "get_context")
"""Whether a task tells its context at any time (Python 3.12+), not only while it waits."""

_MOST_HOPS: Final = 200
_OURS: Final = 3
"""References to a frame's dictionary that nobody else has: the frame's, ours, and that of the call which counts."""
_OPAQUE: Final = frozenset(
    {"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper", "FutureIter"}
)
"""Types of CPython and Cython that await something and do not say what; the garbage collector knows."""
_INNER: Final = frozenset({"coroutine", "async_generator", "generator"})
_DRIVERS: Final = frozenset({"asyncpg", "psycopg", "aiosqlite", "aiomysql", "asyncmy"})


class Hop:
    """One frame of a chain."""

    __slots__ = ("code", "frame", "in_greenlet", "line", "owner")

    def __init__(self, code: CodeType, frame: FrameType | None, owner: object = None, *, in_greenlet: bool = False) -> None:
        self.code = code
        self.owner = owner
        """The coroutine or generator; None in a greenlet."""
        self.frame = frame
        self.line = frame.f_lineno if frame is not None else code.co_firstlineno
        self.in_greenlet = in_greenlet

    @property
    def name(self) -> str:
        """The qualified name of the function; Cython's code objects have only the plain one."""
        return getattr(self.code, "co_qualname", None) or self.code.co_name

    @property
    def module(self) -> str:
        """The name of the module, as far as it can be told."""
        if self.frame is not None:
            return str(self.frame.f_globals.get("__name__", ""))
        return self.code.co_filename.replace("\\", "/").removesuffix(".pyx").replace("/", ".")

    @property
    def package(self) -> str:
        """The name of the top-level package."""
        return self.module.partition(".")[0]

    def local(self, name: str) -> Any:
        """Read a local variable of a library's function; None if there is none."""
        return next(iter(self.locals(name)), None)

    def locals(self, *names: str) -> list[Any]:
        """
        Read some local variables, or all; those that there are.

        Before Python 3.13 the interpreter keeps the dictionary that it makes for this, and with it what a variable held,
        even after the variable is gone: it is emptied at once, unless the function has asked for its `locals()` itself.
        """
        if self.frame is None:
            return []
        seen = self.frame.f_locals
        found = [seen[name] for name in names or seen if name in seen]
        if sys.version_info < (3, 13) and self.frame.f_code.co_flags & CO_OPTIMIZED and sys.getrefcount(seen) == _OURS:
            seen.clear()
        return found

    def values(self) -> list[Any]:
        """
        Read what the function's variables hold, without their names, and what it is in the middle of (`async with`).

        The garbage collector tells; unlike `f_locals`, that leaves no trace. It tells nothing of frames in a greenlet.
        """
        found = []
        for value in gc.get_referents(self.owner) if self.owner is not None else ():
            kind = type(value)
            if kind is CellType:
                try:
                    found.append(value.cell_contents)
                except ValueError:  # empty by now
                    continue
            else:
                found.append(value.__self__ if kind is MethodType else value)
        return found


class Chain:
    """A task's coroutines from the outermost to the innermost, and the future in which they end."""

    __slots__ = ("future", "hops", "task")

    def __init__(self, task: Task[Any], hops: list[Hop], future: Future[Any] | None) -> None:
        self.task = task
        self.hops = hops
        self.future = future

    @property
    def is_ready(self) -> bool:
        """Whether the task is not waiting: what it awaited has come, or it has not begun, or it runs."""
        if self.future is not None:
            return self.future.done()
        return not (self.hops and self.hops[-1].name == "__sleep0")

    def line(self, home: str | None = None) -> int | None:
        """
        Find the innermost hop of the application.

        Args:
            home: the folder of the application's code, for one that is installed like a library.

        Returns:
            Its index; None if there is none.
        """
        for at in range(len(self.hops) - 1, -1, -1):
            if is_application(self.hops[at].code.co_filename):
                return at
        for at in range(len(self.hops) - 1, -1, -1):
            if home and self.hops[at].code.co_filename.startswith(home):
                return at
        return None

    def site(self, home: str | None = None) -> Site | None:
        """Give the innermost line of the application; else the outermost line there is."""
        if not self.hops:
            return None
        hop = self.hops[self.line(home) or 0]
        return Site(hop.code.co_filename, hop.line, hop.name)

    def awaited(self, home: str | None = None) -> str:
        """Say what the innermost line of the application awaits, as `package function`."""
        at = self.line(home)
        below = [hop for hop in self.hops[(at or 0) + 1 :] if not is_internal(hop.code.co_filename)]
        below = [hop for hop in below if not hop.name.startswith("_")] or below
        drivers = [hop for hop in below if hop.package in _DRIVERS]
        if drivers:
            return f"the database, over {drivers[0].package}"
        if below:
            return f"{below[0].package} {below[0].name.rpartition('<locals>.')[2]}"
        return _name(self.future)

    def frameworks(self, code: CodeType | None) -> tuple[str, ...]:
        """
        Name the parts of frameworks in which it is, for which there are remedies.

        Args:
            code: the function that checked the connection out, if it is known.
        """
        names = {(hop.package, hop.name) for hop in self.hops}
        in_fastapi = any(package == "fastapi" for package, _ in names)
        elsewhere = code is not None and all(hop.code is not code for hop in self.hops)
        found = []
        if ("starlette", "StreamingResponse.stream_response") in names:
            found.append("starlette StreamingResponse")
        if ("starlette", "BackgroundTask.__call__") in names:
            found.append("starlette BackgroundTask")
        if in_fastapi and (elsewhere or any(name.endswith("Response.__call__") for _, name in names)):
            found.append("fastapi dependency")
        elif elsewhere and code is not None and code.co_flags & CO_ASYNC_GENERATOR:
            found.append("async generator")
        if hasattr(self.future, "_children"):
            found.append("asyncio gather")
        return tuple(found)

    def is_within(self, driver: object) -> bool:
        """Tell whether it waits inside a driver's connection; not where that waits for the application's own code, or for a NOTIFY."""
        inside = False
        for hop in reversed(self.hops):
            if is_application(hop.code.co_filename):
                break
            if hop.package in _DRIVERS:
                if hop.code.co_name == "notifies":
                    return False
                inside = inside or any(value is driver for value in _owners(hop))
        return inside

    def feeds(self, driver: object) -> bool:
        """Tell whether a driver's connection waits for the application's own code, the source of a COPY."""
        at = self.line()
        return at is not None and any(
            hop.package in _DRIVERS and any(value is driver for value in _owners(hop)) for hop in self.hops[:at]
        )


def chain_of(task: Task[Any]) -> Chain:
    """Follow a suspended task down to what it waits for."""
    hops: list[Hop] = []
    future: Future[Any] | None = None
    awaited: Any = task.get_coro()
    for _ in range(_MOST_HOPS):
        if awaited is None:
            break
        if isinstance(awaited, Future):
            future = awaited
            break
        awaited = _step(awaited, hops)
    if future is None:
        future = getattr(task, "_fut_waiter", None)
    return Chain(task, hops, future)


def context_of(chain: Chain) -> Context | None:
    """Give the context in which a suspended task runs; None if it cannot be told."""
    return _context(chain.task, chain.future)


def task_context(task: Task[Any]) -> Context | None:
    """Give the context of a task without following it down; before Python 3.12 only while it waits."""
    return _context(task, getattr(task, "_fut_waiter", None))


def _context(task: Task[Any], future: Future[Any] | None) -> Context | None:
    get: Any = getattr(task, "get_context", None)  # Python 3.12
    if get is not None:
        return get()  # type: ignore[no-any-return]
    for callback, context in getattr(future, "_callbacks", None) or ():
        if getattr(callback, "__self__", None) is task:
            return context  # type: ignore[no-any-return]
    return None


def _step(awaited: Any, hops: list[Hop]) -> Any:
    """Note the frame of one awaitable, and give what it awaits in turn."""
    kind = type(awaited)
    if kind is CoroutineType or hasattr(kind, "cr_await"):  # the latter: Cython
        hops.append(Hop(awaited.cr_code, awaited.cr_frame, awaited))
        if awaited.cr_code.co_name == "greenlet_spawn":
            hops += _in_greenlet(hops[-1])
        return awaited.cr_await
    if kind is AsyncGeneratorType:
        hops.append(Hop(awaited.ag_code, awaited.ag_frame, awaited))
        return awaited.ag_await
    if kind is GeneratorType or hasattr(kind, "gi_yieldfrom"):
        hops.append(Hop(awaited.gi_code, awaited.gi_frame, awaited))
        return awaited.gi_yieldfrom
    for inner in gc.get_referents(awaited):
        name = type(inner).__name__
        if isinstance(inner, Future) or name in _INNER or name in _OPAQUE:
            return inner
    return None


def _in_greenlet(spawn: Hop) -> list[Hop]:
    """Give the frames of the synchronous code that SQLAlchemy runs in a greenlet, between its coroutine and the driver's."""
    greenlet = spawn.local("context")
    frame = getattr(greenlet, "gr_frame", None)
    hops: list[Hop] = []
    while frame is not None and len(hops) < _MOST_HOPS:
        hops.append(Hop(frame.f_code, frame, in_greenlet=True))
        frame = frame.f_back
    return hops[::-1]


def _owners(hop: Hop) -> list[Any]:
    """Give what a driver's frame works for: its connection, be it a cursor's."""
    own = hop.local("self")
    return [own, getattr(own, "_connection", None), getattr(own, "_conn", None), hop.local("conn")]


def _name(future: Future[Any] | None) -> str:
    if future is None:
        return "asyncio sleep(0)"
    if isinstance(future, Task):
        return f"task {future.get_name()!r}"
    if hasattr(future, "_children"):
        return "asyncio gather"
    if is_shield(future):
        return "asyncio shield"
    return "a future"
