"""Steps aside while a test puts something in the place of something else: by `unittest.mock` (pytest-mock too), or by pytest's `monkeypatch`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["around_replacements"]


def around_replacements(before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """
    Call `before` and `after` around each replacement, and around its end, from now on.

    Returns:
        Ends that.
    """
    import pytest  # noqa: PLC0415 - `sqla_poolguard.testing` is for those too who have none

    doors: list[tuple[type[Any], str]] = [(mock._patch, name) for name in ("__enter__", "__exit__")]
    doors += [(pytest.MonkeyPatch, name) for name in ("setattr", "delattr", "undo")]
    ends = [_around(owner, name, before, after) for owner, name in doors]

    def end() -> None:
        for each in ends:
            each()

    return end


def _around(owner: type[Any], name: str, before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    inner = vars(owner)[name]

    @functools.wraps(inner)
    def replace(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        before()
        try:
            return inner(*args, **kwargs)
        finally:
            after()

    setattr(owner, name, replace)
    return functools.partial(setattr, owner, name, inner)
