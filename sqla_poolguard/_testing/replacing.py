"""What tests put in the place of something else, by `unittest.mock` (pytest-mock too) or by pytest's `monkeypatch`: when they do, and when it is called."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["is_mock", "mocks_of", "when_mocks_are_called", "while_replacing"]


def while_replacing(before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """
    Call `before` and `after` around each replacement, and around its end, from now on; neither may raise.

    Returns:
        Ends that.
    """
    import pytest  # noqa: PLC0415 - `sqla_poolguard.testing` is for those too who have none

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def replace(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            before()
            try:
                return inner(*args, **kwargs)
            finally:
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
            act()
            return inner(self, *args, **kwargs)

        return call

    return _wrap([(mock.CallableMixin, "_mock_call")], around)


async def _later(act: Callable[[], None], answer: Awaitable[Any]) -> Any:
    __tracebackhide__ = True
    act()
    return await answer


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
    return isinstance(_behind(value), mock.NonCallableMock)


def mocks_of(value: Any, name: str | None = None) -> Iterator[Any]:
    """
    Give the mock that is called when a function is that stands for something.

    Args:
        value: the mock, or one of what the function belongs to.
        name: then the function's; of a class's mock it is that of its instances, however they are come by.
    """
    value = _behind(value)
    if name is None:
        yield value
        return
    instance = getattr(value, "return_value", None)
    entered = [getattr(getattr(instance, enter, None), "return_value", None) for enter in ("__enter__", "__aenter__")]
    for owner in (value, instance, *entered):
        function = _behind(getattr(owner, name, None)) if is_mock(owner) else None
        if isinstance(function, mock.NonCallableMock):
            yield function


def _behind(value: Any) -> Any:
    if isinstance(value, mock.NonCallableMock):
        return value
    return vars(value).get("mock", value) if hasattr(value, "__dict__") and callable(value) else value
