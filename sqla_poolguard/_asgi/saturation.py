"""Which errors say that there is no connection to be had, and how they are found inside exception groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from sqla_poolguard import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqla_poolguard._facts import PoolSnapshot

__all__ = ["SATURATION", "Saturation", "saturation_in"]

SATURATION: Final[tuple[type[Exception], ...]] = (errors.NoConnectionError,)
"""The errors that become 503; every other one is left alone."""


class Saturation(Protocol):
    """What these errors have in common."""

    status_code: int
    reason: str
    retry_after: float | None
    snapshot: PoolSnapshot

    def to_problem(self) -> dict[str, Any]:
        """Describe the error for a client."""


def saturation_in(error: Exception) -> Saturation | None:
    """
    Find the error that says why there is no connection: the error itself, or what a group consists of.

    Of several in one group it is the one after which to wait the longest.

    Returns:
        None if the error, or any error in the group, is of another kind.
    """
    leaves = list(_leaves(error))
    if not all(isinstance(leaf, SATURATION) for leaf in leaves):
        return None
    return max(cast("list[Saturation]", leaves), key=lambda leaf: leaf.retry_after or 0.0)


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
