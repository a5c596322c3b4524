"""Everything in this folder runs in virtual time, on both lanes: over SQLAlchemy's private parts, and without them."""

from __future__ import annotations

import weakref

import pytest
from doubles.virtual import VirtualLoop

from sqla_poolguard import _fastlane, _naming
from sqla_poolguard._ticker import ticker


def pytest_asyncio_loop_factories(config, item):
    """Run every coroutine test in a loop whose clock is virtual."""
    return {"virtual": VirtualLoop}


@pytest.fixture(params=["fast", "safe"], autouse=True)
def lane(request, monkeypatch):
    """Open or close the fast lane."""
    assert _fastlane.CLOSED_BECAUSE is None, "this SQLAlchemy has changed a private part that the fast lane knows"
    if request.param == "safe":
        monkeypatch.setattr(_fastlane, "CLOSED_BECAUSE", "a test")
    return request.param


@pytest.fixture(autouse=True)
def nobody_looks(monkeypatch):
    """Keep the thread away that looks in real time at what happens in virtual time."""
    monkeypatch.setattr(ticker, "enabled", False)


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Let every test name its pools as if it were alone in the process."""
    monkeypatch.setattr(_naming, "_taken", weakref.WeakValueDictionary())
