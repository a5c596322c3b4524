"""The assertions as context managers, for `with` and `async with`: for unittest, and for use outside of tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from sqla_poolguard._testing.watching import ConnectionWatch

__all__ = ["max_concurrent", "no_leaks", "released_before_response"]


_T = TypeVar("_T")


class _Block(ABC, Generic[_T]):
    """A block that is watched, of either kind; a failure of its own is not covered up."""

    _watch: ConnectionWatch

    @abstractmethod
    def _begin(self) -> _T:
        """Give what the block is to work with."""

    @abstractmethod
    def _check(self) -> None:
        """Assert, at its end."""

    def __enter__(self) -> _T:
        self._watch.__enter__()
        return self._begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._check()
        finally:
            self._watch.__exit__()

    async def __aenter__(self) -> _T:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.__exit__(kind)


class no_leaks(_Block[ConnectionWatch]):  # noqa: N801 - used like a function
    """
    Assert that every connection that is checked out in a block has come back at its end.

    For `with` and `async with`; the latter lets background tasks end in the running event loop. It gives the `ConnectionWatch`.
    """

    def __init__(self, quiesce: float = 1.0) -> None:
        """
        Make one for a block.

        Args:
            quiesce: seconds that background tasks have to give connections back.

        Raises:
            ValueError: that is less than 0, or no number.
        """
        if isinstance(quiesce, bool) or not isinstance(quiesce, (int, float)) or not quiesce >= 0:
            msg = f"no_leaks(quiesce={quiesce!r}) is not allowed; allowed: a number of seconds, 0 or more"
            raise ValueError(msg)
        self._quiesce = quiesce
        self._watch = ConnectionWatch()

    def _begin(self) -> ConnectionWatch:
        return self._watch

    def _check(self) -> None:
        self._watch.settle_now(self._quiesce)
        self._watch.assert_no_leaks()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self._watch.settle(self._quiesce)
                self._watch.assert_no_leaks()
        finally:
            self._watch.__exit__()


class max_concurrent(_Block[ConnectionWatch]):  # noqa: N801 - likewise
    """
    Assert that never more than so many connections are out at one time in a block, of all pools together.

    For `with` and `async with`. It gives the `ConnectionWatch`.
    """

    def __init__(self, most: int) -> None:
        """
        Make one for a block.

        Args:
            most: how many.

        Raises:
            ValueError: it is no whole number, 0 or more.
        """
        self._most = most
        self._watch = ConnectionWatch()
        self._watch.assert_max_concurrent(most)  # that the figure is one

    def _begin(self) -> ConnectionWatch:
        return self._watch

    def _check(self) -> None:
        self._watch.assert_max_concurrent(self._most)


class released_before_response(_Block[Any]):  # noqa: N801 - likewise
    """
    Assert that no request of a block holds a connection while its response is sent.

    For `with` and `async with`. It gives an application, which is to be used for the requests.
    """

    def __init__(self, app: Any) -> None:
        """
        Make one for a block.

        Args:
            app: an ASGI application.
        """
        self._app = app
        self._watch = ConnectionWatch()

    def _begin(self) -> Any:
        return self._watch.app(self._app)

    def _check(self) -> None:
        self._watch.assert_released_before_response()
