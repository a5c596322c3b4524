"""The drivers and lanes that every table here is run on."""

from __future__ import annotations

import asyncio
import threading
import weakref

import pytest
from doubles.lands import LANDS, Land

from sqla_poolguard import _fastlane, _naming


@pytest.fixture(params=LANDS)
async def land(request, tmp_path):
    """Give a driver; PostgreSQL is started only where it is wanted."""
    url = request.getfixturevalue("postgres_url") if request.param == "asyncpg" else ""
    before = set(threading.enumerate())
    yield Land(request.param, url, tmp_path)
    # a terminated SQLite connection says goodbye to the loop from its own thread
    for thread in set(threading.enumerate()) - before:
        if thread.name.endswith("(_connection_worker_thread)"):
            await asyncio.to_thread(thread.join, 5)


@pytest.fixture(params=["fast", "safe"], autouse=True)
def lane(request, monkeypatch):
    """Open or close the fast lane."""
    if request.param == "safe":
        monkeypatch.setattr(_fastlane, "CLOSED_BECAUSE", "a test")
    return request.param


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Let every test name its pools as if it were alone in the process."""
    monkeypatch.setattr(_naming, "_taken", weakref.WeakValueDictionary())
