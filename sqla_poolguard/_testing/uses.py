"""
Counts what connections are asked, for drivers that do not tell whether they work: at SQLAlchemy's dialect, which asks them.

It stands there only while a connection of that dialect is followed. What somebody asks of the driver himself it does not see, nor
what is fetched later of a stream.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Uses", "count_uses"]

_EXECUTING: Final = ("do_execute", "do_executemany", "do_execute_no_params")
_ENDING: Final = ("do_commit", "do_rollback")

_counted: Final[dict[int, Uses]] = {}
"""What is counted now, by the `id` of the pool's connection."""


class Uses:
    """What one connection is asked, from one checkout to its end."""

    __slots__ = ("_dialect", "_fairy", "_key", "count", "running")

    def __init__(self, fairy: Any, dialect: Any) -> None:
        self.count = 0
        """Rises with what the connection is asked."""
        self.running = 0
        """What it has been asked and has not answered yet."""
        self._key, self._fairy, self._dialect = id(fairy), weakref.ref(fairy), dialect

    def is_of(self, fairy: object) -> bool:
        """Tell whether this is that connection's; not one's that had its place in memory before."""
        return self._fairy() is fairy

    def end(self) -> None:
        """Count no more; the garbage collector may call, at any instruction."""
        if _counted.get(self._key) is self:
            _counted.pop(self._key, None)
        if not self._is_among_others():
            _go(self._dialect)
            if self._is_among_others():  # another thread has begun meanwhile
                _stand(self._dialect)

    def _is_among_others(self) -> bool:
        return any(other._dialect is self._dialect for other in _counted.copy().values())


def count_uses(fairy: Any, dialect: Any) -> Uses:
    """
    Begin to count.

    Args:
        fairy: the pool's connection, as SQLAlchemy holds it.
        dialect: SQLAlchemy's dialect, which works with it.
    """
    uses = _counted[id(fairy)] = Uses(fairy, dialect)
    _stand(dialect)
    return uses


def _stand(dialect: Any) -> None:
    """Stand before the dialect's methods; not where somebody has put one of his own into the object."""
    for name in (*_EXECUTING, *_ENDING):
        if name not in vars(dialect):
            vars(dialect).setdefault(name, _Door(getattr(dialect, name), is_executing=name in _EXECUTING))


def _go(dialect: Any) -> None:
    """Leave them as they were."""
    for name in (*_EXECUTING, *_ENDING):
        if isinstance(vars(dialect).get(name), _Door):
            vars(dialect).pop(name, None)


class _Door:
    """One of a dialect's methods, and the count before it."""

    def __init__(self, inner: Callable[..., Any], *, is_executing: bool) -> None:
        self._inner, self._is_executing = inner, is_executing

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        uses = self._uses(args, kwargs)
        if uses is None:
            return self._inner(*args, **kwargs)
        uses.count += 1
        uses.running += 1
        try:
            return self._inner(*args, **kwargs)
        finally:
            uses.running -= 1

    def _uses(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Uses | None:
        """Find the connection that is asked: executing is given a context, last of all; the others are given the connection."""
        fairy = next(iter(args), None)
        if self._is_executing:
            context = kwargs.get("context", args[-1] if args else None)
            fairy = getattr(getattr(context, "root_connection", None), "_dbapi_connection", None)
        uses = _counted.get(id(fairy))
        return uses if uses is not None and uses.is_of(fairy) else None
