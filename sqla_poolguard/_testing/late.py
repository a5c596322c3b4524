"""Reports of tests that are over: what they left in a fixture's hands comes to light when that ends, while another test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Lateness", "tell_late", "to_be_handed_over"]

Lateness = tuple[str, tuple[str, "int | None", str], str, list[tuple[str, str]]]
"""A test's node id and location, what it is told, and the properties of its report: plain values, to be sent by pytest-xdist."""

_KEPT = pytest.StashKey[list[Lateness]]()


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
            text,
            "teardown",
            user_properties=[(key, value) for key, value in properties],
        )
        if node is not None:
            report.node = node  # type: ignore[attr-defined] # so does pytest-xdist
        config.hook.pytest_runtest_logreport(report=report)


def to_be_handed_over(config: pytest.Config) -> list[Lateness]:
    """Give the news that a worker of pytest-xdist has kept."""
    return config.stash.get(_KEPT, [])
