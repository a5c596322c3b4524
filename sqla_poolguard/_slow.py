"""Times statements, where that was asked for, and tells of the slow ones. The text of a statement is told only if that was asked for too."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._callsite import site_of, this_task
from sqla_poolguard._finding import SlowStatement

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._pool import GuardedPool

__all__ = ["time_statements"]

_METHODS: Final = ("do_execute", "do_executemany", "do_execute_no_params")
"""SQLAlchemy's `Dialect` executes every statement of an engine through these."""

_MOST_TEXT: Final = 1000


def time_statements(pool: GuardedPool) -> None:
    """Time the statements of a pool's engine, from now on."""
    dialect: Any = pool._dialect
    for name in _METHODS:
        method = getattr(dialect, name, None)
        if method is not None and not hasattr(method, "poolguard"):  # the dialect serves all generations of the pool
            setattr(dialect, name, _timed(method, pool))


def _timed(method: Callable[..., Any], pool: GuardedPool) -> Callable[..., Any]:
    clock, threshold, reporter = pool._clock, pool.guard.slow_statement or 0.0, pool._watch.reporter
    with_text, who = pool.guard.statement_text, pool._who

    @functools.wraps(method)
    def timed(cursor: Any, statement: str, *rest: Any, **options: Any) -> Any:
        begun = clock()
        try:
            return method(cursor, statement, *rest, **options)
        finally:
            seconds = clock() - begun
            if seconds >= threshold:
                task = this_task()
                text = statement[:_MOST_TEXT] if with_text else None
                name = task.get_name() if task is not None else None
                reporter.tell(reporter.observers.slow, SlowStatement(reporter.name, site_of(who(1)), name, seconds, text))

    timed.poolguard = True  # type: ignore[attr-defined]
    return timed
