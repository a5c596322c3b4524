"""Tells whoever waits for it that the pool's class is there: so the pytest plugin need not import it, nor SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["arrive", "forget", "when_there"]

_there: Final[list[type[Any]]] = []
_waiting: Final[list[Callable[[], None]]] = []


def when_there(act: Callable[[], None]) -> None:
    """Call `act` once `GuardedPool` is imported; at once if it is."""
    if _there:
        act()
    else:
        _waiting.append(act)


def forget(act: Callable[[], None]) -> None:
    """Wait no longer, if one still does."""
    if act in _waiting:
        _waiting.remove(act)


def arrive(pool_class: type[Any]) -> None:
    """Say that the class is there; its module does, when it is imported."""
    _there[:] = [pool_class]
    waiting, _waiting[:] = _waiting[:], []
    for act in waiting:
        act()
