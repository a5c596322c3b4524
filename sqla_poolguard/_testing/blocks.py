"""The assertions as context managers, for unittest and for use outside of tests; `no_leaks` for `async with` too."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqla_poolguard._testing.watching import ConnectionWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["max_concurrent", "no_leaks", "released_before_response"]


class no_leaks:  # noqa: N801 - used like a function
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

    def __enter__(self) -> ConnectionWatch:
        return self._watch.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._watch.settle_now(self._quiesce)
                self._watch.assert_no_leaks()
        finally:
            self._watch.__exit__()

    async def __aenter__(self) -> ConnectionWatch:
        return self._watch.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self._watch.settle(self._quiesce)
                self._watch.assert_no_leaks()
        finally:
            self._watch.__exit__()


@contextmanager
def max_concurrent(most: int) -> Iterator[ConnectionWatch]:
    """
    Assert that never more than so many connections are out at one time in a block, of all pools together.

    Raises:
        ValueError: `most` is no whole number, 0 or more.
    """
    with ConnectionWatch() as watch:
        watch.assert_max_concurrent(most)  # that the figure is one
        yield watch
        watch.assert_max_concurrent(most)


@contextmanager
def released_before_response(app: Any) -> Iterator[Any]:
    """
    Assert that no request of a block holds a connection while its response is sent.

    Args:
        app: an ASGI application; what the block is given in its place is to be used for the requests.
    """
    with ConnectionWatch() as watch:
        yield watch.app(app)
        watch.assert_released_before_response()
