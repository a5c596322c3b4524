"""One Jaeger for all, and a table of what was asserted of it, printed at the end."""

from __future__ import annotations

import pytest
from jaeger.server import Jaeger

WIDEST = 78
ROWS = pytest.StashKey[list]()


class Table:
    """Asserts, and notes what was asserted."""

    def __init__(self, rows):
        self._rows = rows
        self._title = ""

    def about(self, title):
        """Begin a part."""
        self._title = title
        self._rows.append(("", title))

    def equal(self, what, found, expected):
        """Assert that something read back from Jaeger is what it should be."""
        assert found == expected, f"{self._title}: {what}"
        self._rows.append((what, str(found)))

    def holds(self, what, shown, truth):
        """Assert something else, and show what it is about."""
        assert truth, f"{self._title}: {what}: {shown}"
        self._rows.append((what, str(shown)))


def pytest_configure(config):
    """Begin the table."""
    config.stash[ROWS] = []


@pytest.fixture
def table(request):
    """Notes what is asserted."""
    return Table(request.config.stash[ROWS])


@pytest.fixture(scope="session")
def jaeger():
    """A real Jaeger."""
    with Jaeger() as running:
        yield running


def pytest_terminal_summary(terminalreporter, config):
    """Print the table."""
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("read back from Jaeger, and asserted")
    width = max(len(what) for what, _ in rows)
    for what, shown in rows:
        cut = shown if len(shown) <= WIDEST else f"{shown[: WIDEST - 1]}…"
        terminalreporter.write_line(f"  {what:<{width}}  {cut}" if what else f"\n{shown}")
