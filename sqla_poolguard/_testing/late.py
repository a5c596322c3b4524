"""Reports of tests that are over: what they left in a fixture's hands comes to light when that ends, while another test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from sqla_poolguard._testing.faults import describe
from sqla_poolguard._testing.policy import PoolguardWarning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqla_poolguard._testing.faults import Fault
    from sqla_poolguard._testing.tally import Tally

__all__ = ["PROPERTY", "TITLE", "Lateness", "tell_earlier_tests", "tell_late", "to_be_handed_over"]

TITLE: Final = "sqla-poolguard"
"""What everything begins with that a test is told."""
PROPERTY: Final = "poolguard"
"""Name of the property of a test's report that says what was found."""

Lateness = tuple[str, tuple[str, "int | None", str], str, list[tuple[str, str]]]
"""A test's node id and location, what it is told, and the properties of its report: plain values, to be sent by pytest-xdist."""

_KEPT = pytest.StashKey[list[Lateness]]()


def tell_earlier_tests(
    faults: list[Fault], session: pytest.Session, tally: Tally, mode: str, now: str | None = None
) -> list[Fault]:
    """
    Tell tests that are over what they have left to fixtures that end later.

    Args:
        faults: what was found.
        session: of pytest.
        tally: counts.
        mode: "warn" only to warn.
        now: node id of the test with which the fixtures have ended, if it can still be told otherwise.

    Returns:
        The faults that are for somebody else to be told.
    """
    tests: dict[str, list[Fault]] = {}
    for fault in faults:
        if fault.test is not None and fault.test != now:
            tests.setdefault(fault.test, []).append(fault)
    told: list[Fault] = []
    for guilty in session.items if tests else ():
        theirs = tests.pop(guilty.nodeid, [])
        if not theirs:
            continue
        told += theirs
        for fault in theirs:
            tally.add(fault, guilty.nodeid)
        text = describe(theirs)
        if mode != "warn" or not _has_warned(guilty, text):
            properties = [(PROPERTY, fault.headline) for fault in theirs]
            tell_late(session.config, [(guilty.nodeid, guilty.location, f"{TITLE}: {text}", properties)])
    return [fault for fault in faults if fault not in told]


def _has_warned(test: pytest.Item, text: str) -> bool:
    """Warn, unless the run makes errors of such warnings: then it must not be one of the test that runs."""
    try:
        test.warn(PoolguardWarning(f"{test.nodeid}: {text}"))  # pytest lists it with the test that runs
    except PoolguardWarning:
        return False
    return True


def tell_late(config: pytest.Config, news: Iterable[Lateness], node: Any = None) -> None:
    """
    Report tests once more, as errors of their teardowns.

    Args:
        config: of this run. In a worker of pytest-xdist, which may report only the test that it runs, the news is kept for the end.
        news: what there is to tell.
        node: the worker from which it comes, if it comes from one.
    """
    if hasattr(config, "workerinput"):
        config.stash.setdefault(_KEPT, []).extend(news)
        return
    for nodeid, location, text, properties in news:
        file, line, name = location
        report = pytest.TestReport(
            nodeid,
            (file, line, name),
            {},
            "failed",
            _represented(text),
            "teardown",
            user_properties=[(key, value) for key, value in properties],
        )
        if node is not None:
            report.node = node  # type: ignore[attr-defined] # so does pytest-xdist
        config.hook.pytest_runtest_logreport(report=report)


def _represented(text: str) -> Any:
    """Write a failure as pytest does, with the crash of which its short summary tells."""
    try:
        pytest.fail(text, pytrace=False)
    except pytest.fail.Exception as failure:
        return pytest.ExceptionInfo.from_exception(failure).getrepr(style="value")


def to_be_handed_over(config: pytest.Config) -> list[Lateness]:
    """Give the news that a worker of pytest-xdist has kept."""
    return config.stash.get(_KEPT, [])
