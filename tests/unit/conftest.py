"""No SQLAlchemy pool and no running loop: rules are plain objects."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture
def loop():
    """Give a loop that makes futures and never runs."""
    made = asyncio.new_event_loop()
    yield made
    made.close()
