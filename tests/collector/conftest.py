"""What `generate_latest` prints of the pools that a test makes, in virtual time."""

from __future__ import annotations

import pytest
from doubles.scrapes import Scrape, forgotten
from doubles.virtual import VirtualLoop


def pytest_asyncio_loop_factories(config, item):
    """Run every coroutine test in a loop whose clock is virtual."""
    return {"virtual": VirtualLoop}


@pytest.fixture
def scrape():
    """Give a registry with a collector of every pool."""
    return Scrape()


@pytest.fixture(autouse=True)
def nothing_left():
    """Leave a process behind in which nobody counts."""
    with forgotten():
        yield
