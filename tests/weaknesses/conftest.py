"""Time is virtual, but where a real PostgreSQL takes part."""

from __future__ import annotations

import asyncio

from doubles.virtual import VirtualLoop


def pytest_asyncio_loop_factories(config, item):
    """Run coroutine tests in a loop whose clock is virtual; beside a real PostgreSQL time is real."""
    if item.get_closest_marker("postgres"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualLoop}
