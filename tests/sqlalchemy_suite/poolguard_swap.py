"""
A pytest plugin for SQLAlchemy's test suite: puts GuardedPool where a stock pool is looked up, and writes down every outcome.

The stock class is left alone. What changes is the name under which dialects and tests look it up: `sqlalchemy.pool.<name>`.
It is set before SQLAlchemy's own plugin makes its first engine, and before any test module is imported;
nothing of SQLAlchemy may be imported before its conftest.py was, hence the imports inside of functions.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

ASYNC: Final = "AsyncAdaptedQueuePool"
SYNC: Final = "QueuePool"

REPLACED: Final = os.environ.get("POOLGUARD_SUITE_REPLACED", "")
"""The name to replace; empty: none, the suite runs as it is."""

LANE: Final = os.environ.get("POOLGUARD_SUITE_LANE", "")
"""How GuardedPool is to work; see `run.LANES`."""

OUTCOMES: Final = Path(os.environ["POOLGUARD_SUITE_OUTCOMES"])
"""One JSON object a line: `[id, phase, outcome, message]`, written at once, so that a run that hangs tells how far it came."""

made: Final[list[Any]] = []
"""The books of each pool of the replacing class; those of an engine that was disposed of stand here more than once."""

taken: Final[list[None]] = []
"""One entry for each checkout that took the short way over private parts from end to end."""


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """Replace the class, if one is to be."""
    OUTCOMES.write_text("")
    if REPLACED:
        import sqlalchemy.pool  # noqa: PLC0415 - see above

        replacement = _replacement()
        setattr(sqlalchemy.pool, REPLACED, replacement)
        setattr(sqlalchemy, REPLACED, replacement)
        _watch_the_lane()
        if LANE == "fast":
            _hide_the_reaper(replacement)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down what became of one phase of a test."""
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    message = ""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash is not None else str(report.longrepr)
        message = text.strip().splitlines()[-1 if crash is None else 0][:300] if text.strip() else ""
    with OUTCOMES.open("a") as file:
        file.write(json.dumps([report.nodeid, report.when, outcome, message]) + "\n")


def pytest_sessionfinish() -> None:
    """Write down how much the replacing class was used: a swap that did nothing must not look like a success."""
    checkouts = sum(ledger.granted for ledger in {id(ledger): ledger for ledger in made}.values())
    with OUTCOMES.open("a") as file:
        file.write(json.dumps(["", "used", len(made), f"{checkouts} checkouts, {len(taken)} of them in one step"]) + "\n")


def _replacement() -> type[Any]:
    """
    Make the class that stands in for the stock one.

    It has the stock class's name, because test ids, error messages and loggers contain it. Otherwise it only translates what the
    suite does to private parts of the stock class: `testing_engine()` assigns `_timeout` and `_max_overflow` of pools that exist,
    and a test of the ping reads `_overflow`.
    """
    from sqlalchemy.pool.base import _ConnDialect  # noqa: PLC0415 - see above

    from sqla_poolguard._pool import GuardedPool  # noqa: PLC0415

    class Replacement(GuardedPool):
        _sqla_logger_namespace = f"sqlalchemy.pool.impl.{REPLACED}"

        def __init__(self, *args: Any, **kw: Any) -> None:
            super().__init__(*args, **kw)
            made.append(self._ledger)

        @property
        def _timeout(self) -> Any:
            return self.__dict__["_timeout"]

        @_timeout.setter
        def _timeout(self, seconds: float | None) -> None:
            self.__dict__["_timeout"] = seconds
            if "_supply" in self.__dict__:
                self._supply = type(self._supply)(self)

        @property
        def _overflow(self) -> int:
            return self._slots.taken - self._slots.size

        @property
        def _max_overflow(self) -> int:
            return self._slots.max_overflow

        @_max_overflow.setter
        def _max_overflow(self, most: int) -> None:
            slots = self._slots
            slots.max_overflow = most
            if slots.size:
                slots.limit = slots.size + most if most >= 0 else float("inf")

    if REPLACED == SYNC:
        Replacement._is_asyncio = False
        Replacement._dialect = _ConnDialect()
    Replacement.__name__ = Replacement.__qualname__ = REPLACED
    return Replacement


def _watch_the_lane() -> None:
    """Count who takes the fast lane; close it, as a change of SQLAlchemy would, where that is asked for."""
    from sqla_poolguard import _fastlane  # noqa: PLC0415 - see above

    if LANE == "safe":
        _fastlane.CLOSED_BECAUSE = "the suite asked for it"
    take = _fastlane.take

    def counting(*arguments: Any) -> Any:
        fairy = take(*arguments)
        if fairy is not None:
            taken.append(None)
        return fairy

    _fastlane.take = counting


def _hide_the_reaper(replacement: type[Any]) -> None:
    """
    Let the suite's reaper learn of checkouts in another way than by listening to them.

    It listens to every engine of the suite, and one listener is enough for GuardedPool to go SQLAlchemy's own way.
    """
    from sqlalchemy import event  # noqa: PLC0415 - see above
    from sqlalchemy.testing.engines import testing_reaper as reaper  # noqa: PLC0415

    add_pool, connect, recreate, give_back = (
        reaper.add_pool,
        replacement.connect,
        replacement.recreate,
        replacement._do_return_conn,
    )

    def adding(pool: Any) -> None:
        if not isinstance(pool, replacement):
            add_pool(pool)
            return
        pool.reaped = True
        event.listen(pool, "close", reaper._remove_conn)
        event.listen(pool, "close_detached", reaper._remove_conn)

    def connecting(pool: Any) -> Any:
        fairy = connect(pool)
        if getattr(pool, "reaped", False):
            reaper._add_conn(fairy.dbapi_connection, fairy._connection_record, fairy)
        return fairy

    def recreating(pool: Any) -> Any:
        successor = recreate(pool)
        successor.reaped = getattr(pool, "reaped", False)
        return successor

    def giving_back(pool: Any, record: Any) -> None:
        reaper._remove_conn(record.dbapi_connection)
        give_back(pool, record)

    reaper.add_pool, replacement.connect, replacement.recreate = adding, connecting, recreating
    replacement._do_return_conn = giving_back
