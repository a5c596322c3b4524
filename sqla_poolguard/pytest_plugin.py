"""
Tell at the end of a test run which connections were leaked, and which lines had checked them out.

pytest loads it in every run, so it imports nothing but the standard library:
it listens to the log of `sqla_poolguard`, whose records carry the facts.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_configure", "pytest_terminal_summary", "pytest_unconfigure"]

_LOGGER: Final = "sqla_poolguard"


class LeakCollector(logging.Handler):
    """Counts leaked connections by the line that checked them out."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.leaks: Counter[tuple[str, str]] = Counter()
        """Leaks by (pool, site)."""

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record that tells of a leak."""
        checkout = getattr(record, "poolguard", None)
        if checkout is not None:
            self.leaks[checkout.pool, str(checkout.site or "an unknown line")] += 1


_collector: Final = LeakCollector()


def pytest_configure() -> None:
    """Begin to listen."""
    logging.getLogger(_LOGGER).addHandler(_collector)


def pytest_unconfigure() -> None:
    """Stop listening."""
    logging.getLogger(_LOGGER).removeHandler(_collector)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the leaks of the run, if there were any; what the last tests dropped is collected first."""
    if "sqla_poolguard._pool" in sys.modules:
        gc.collect()
    if not _collector.leaks:
        return
    terminalreporter.section("connections leaked (sqla-poolguard)")
    for (pool, site), count in _collector.leaks.most_common():
        terminalreporter.write_line(f"{count:>4} x  pool {pool!r}: never closed, checked out at {site}")
