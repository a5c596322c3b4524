"""What tests put in the place of something else, by `unittest.mock` (pytest-mock too) or by pytest's `monkeypatch`: when they do, and when it is called."""

from __future__ import annotations

import functools
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["ANSWERING", "is_function_of", "is_mock", "mock_behind", "when_mocks_are_called", "while_replacing"]

_INSTANCE: Final = frozenset({"()", "__enter__", "__aenter__"})
"""By what one comes from a class's mock to that of its instance, as mocks name it."""


def while_replacing(before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """
    Call `before` and `after` around each replacement, and around its end, from now on; neither may raise.

    Returns:
        Ends that.
    """
    import pytest  # noqa: PLC0415 - `sqla_poolguard.testing` is for those too who have none

    depth = 0  # one may enter another, as `patch.multiple` does

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def replace(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            nonlocal depth
            depth += 1
            if depth == 1:
                before()
            try:
                return inner(*args, **kwargs)
            finally:
                depth -= 1
                if depth == 0:
                    after()

        return replace

    doors: list[tuple[type[Any], str]] = [(mock._patch, name) for name in ("__enter__", "__exit__")]
    doors += [(pytest.MonkeyPatch, name) for name in ("setattr", "delattr", "undo")]
    return _wrap(doors, around)


def when_mocks_are_called(look: Callable[[Any, tuple[Any, ...]], Callable[[], None] | None]) -> Callable[[], None]:
    """
    Call `look` with every mock that is called, and its arguments, from now on; the mock has noted the call already.

    Args:
        look: gives what is to be done before the mock answers, in the task that waits for it if it is an `AsyncMock`; None for nothing.

    Returns:
        Ends that.
    """

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            act = look(self, args)
            if act is None:
                return inner(self, *args, **kwargs)
            if isinstance(self, mock.AsyncMock):
                return _later(act, inner(self, *args, **kwargs))
            return _now(act, partial(inner, self, *args, **kwargs))

        return call

    return _wrap([(mock.CallableMixin, "_mock_call")], around)


def _now(act: Callable[[], None], answer: Callable[[], Any]) -> Any:
    __tracebackhide__ = True
    act()
    return answer()


async def _later(act: Callable[[], None], answer: Coroutine[Any, Any, Any]) -> Any:
    __tracebackhide__ = True
    try:
        act()
    except BaseException:
        answer.close()
        raise
    return await answer


ANSWERING: Final = frozenset({_now.__code__, _later.__code__})
"""In these a mock answers for which something was done."""


def _wrap(doors: list[tuple[type[Any], str]], around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    inner = [(owner, name, vars(owner)[name]) for owner, name in doors]
    for owner, name, function in inner:
        setattr(owner, name, around(function))

    def end() -> None:
        for owner, name, function in inner:
            setattr(owner, name, function)

    return end


def is_mock(value: Any) -> bool:
    """Tell whether something is a mock, or a function with a mock behind it (`autospec`)."""
    return isinstance(mock_behind(value), mock.NonCallableMock)


def mock_behind(value: Any) -> Any:
    """Give the mock that is called when a value is; the value itself, if that is one."""
    if isinstance(value, mock.NonCallableMock):
        return value
    return vars(value).get("mock", value) if hasattr(value, "__dict__") and callable(value) else value


def is_function_of(called: Any, owner: int, name: str) -> bool:
    """
    Tell whether a mock stands for a function of a class or an object in whose place a mock is. It makes no mock, as asking the mocks would.

    Args:
        called: the mock that is called.
        owner: `id` of the mock that stands for the class, or the object.
        name: of the function.
    """
    facts = vars(called)
    if facts.get("_mock_new_name") != name:
        return False
    while (parent := facts.get("_mock_new_parent")) is not None:
        if id(parent) == owner:
            return True
        facts = vars(parent)
        if facts.get("_mock_new_name") not in _INSTANCE:
            return False
    return False
