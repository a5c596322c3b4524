"""Puts a function before another one, which looks and acts like it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pkgutil
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check_guardable", "guarded", "is_instance", "put", "take"]


def is_instance(owner: Any) -> bool:
    """Tell whether a function belongs to an object, not to a class or a module."""
    return not isinstance(owner, (type, ModuleType))


def check_guardable(call: str, owner: Any, name: str) -> None:
    """
    Find out whether something can be put before a function.

    Raises:
        ValueError: it is no function, or there is no place.
    """
    found = getattr(owner, name) if is_instance(owner) else inspect.getattr_static(owner, name)
    function = found.__func__ if isinstance(found, (classmethod, staticmethod, MethodType)) else found
    if not isinstance(function, (FunctionType, BuiltinFunctionType)):
        what = "a class: name its method" if isinstance(found, type) else f"no function, but a {type(found).__name__}"
        msg = f"poolguard_forbidden_calls: {call!r} is not allowed: it is {what}; allowed: functions and methods"
        raise ValueError(msg)  # noqa: TRY004 - of the option
    if not hasattr(owner, "__dict__"):
        msg = f"poolguard_forbidden_calls: {call!r} is not allowed: {type(owner).__name__} has __slots__; allowed: the class's method"
        raise ValueError(msg)


def put(owner: Any, name: str, function: Any) -> None:
    """Let a class, a module or an object have a function."""
    if is_instance(owner):
        vars(owner)[name] = function
    else:
        setattr(owner, name, function)


def take(owner: Any, name: str) -> None:
    """Take it away again."""
    if is_instance(owner):
        vars(owner).pop(name, None)
    else:
        delattr(owner, name)


def guarded(found: Any, look: Callable[[tuple[Any, ...]], Callable[[], None]], is_on: Callable[[], bool]) -> Any:
    """
    Make a function that looks and acts like another one, and checks before.

    Args:
        found: the function, or a class's static or class method.
        look: is called with the arguments at the call, and gives the check for when the function runs, in whichever task.
        is_on: tells whether to check at all; who has kept the function may call it when the test is long over.
    """
    if isinstance(found, (classmethod, staticmethod)):
        return type(found)(guarded(found.__func__, look, is_on))
    if isinstance(found, MethodType):  # of an object: a copy of that is to have its own
        return MethodType(guarded(found.__func__, look, is_on), found.__self__)
    if isinstance(found, BuiltinFunctionType):
        return _GuardedBuiltin(found, look, is_on)
    if not inspect.iscoroutinefunction(found):

        @functools.wraps(found)
        def guard(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if is_on():
                look(args)()
            return found(*args, **kwargs)

        return guard

    async def later(check: Callable[[], None], args: Any, kwargs: Any) -> Any:
        __tracebackhide__ = True
        check()
        return await found(*args, **kwargs)

    @functools.wraps(found)
    def guard_later(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return later(look(args), args, kwargs) if is_on() else found(*args, **kwargs)

    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(guard_later)
    guard_later._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return guard_later


class _GuardedBuiltin:
    """A guard that does not bind when it is an attribute of a class: builtins do not. It is copied and pickled as they are, too."""

    def __init__(self, found: Any, look: Callable[[tuple[Any, ...]], Callable[[], None]], is_on: Callable[[], bool]) -> None:
        functools.update_wrapper(self, found)
        self._found, self._look, self._is_on = found, look, is_on

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if self._is_on():
            self._look(args)()
        return self._found(*args, **kwargs)

    def __copy__(self) -> _GuardedBuiltin:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> _GuardedBuiltin:
        return self

    def __reduce__(self) -> Any:
        """Be what stands there by its name where it is read: in another process, or when the test is over, the builtin itself."""
        reduced = self._found.__reduce__()
        return (pkgutil.resolve_name, (f"{self._found.__module__}:{reduced}",)) if isinstance(reduced, str) else reduced
