"""Where monitors leave what they know of a pool, for whoever shows pools. It knows neither of them, and keeps nobody alive."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._reporter import Reporter

__all__ = ["begin", "end", "forget", "monitored"]

_views: Final[weakref.WeakKeyDictionary[Reporter, tuple[weakref.WeakMethod[Callable[[], Any]], ...]]] = (
    weakref.WeakKeyDictionary()
)
"""By engine: its pool is another one after `dispose()`."""


def begin(reporter: Reporter, view: Callable[[], Any]) -> None:
    """
    Leave a view here.

    Args:
        reporter: whose pool it is.
        view: a method of the monitor, called from any thread; it gives a fact, or None while nothing is known.
    """
    end(reporter, view)
    _views[reporter] = (*_views.get(reporter, ()), weakref.WeakMethod(view))


def end(reporter: Reporter, view: Callable[[], Any]) -> None:
    """Take it away again; nothing happens if it is not here."""
    others = tuple(each for each in _views.pop(reporter, ()) if each() not in {None, view})
    if others:
        _views[reporter] = others


def monitored(pool: Any) -> Any:
    """Give what the monitor knows that came last, as a fact; None if none runs."""
    for reference in reversed(_views.get(pool._watch.reporter, ())):
        view = reference()
        if view is not None:
            return view()
    return None


def forget() -> None:
    """Forget all, in a forked child: the monitors run in the parent."""
    _views.clear()
