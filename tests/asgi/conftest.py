"""What every test of the web's side begins with: nobody listens to engines, nobody looks, no name is taken."""

from __future__ import annotations

import weakref

import pytest
from doubles.web import small
from sqlalchemy import event
from sqlalchemy.engine import Engine

from sqla_poolguard import _naming
from sqla_poolguard._asgi import handlers, middleware, tally
from sqla_poolguard._asgi.reply import Journal
from sqla_poolguard._ticker import ticker


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Be alone in the process, and leave nothing behind."""
    monkeypatch.setattr(_naming, "_taken", weakref.WeakValueDictionary())
    monkeypatch.setattr(ticker, "enabled", False)
    for room in (handlers, middleware):
        monkeypatch.setattr(room, "journal", Journal())
    yield
    for name, listener in (("engine_connect", tally._connected), ("before_cursor_execute", tally._executes)):
        if event.contains(Engine, name, listener):
            event.remove(Engine, name, listener)
    Engine._has_events = False


@pytest.fixture
async def orders():
    """Give an engine with one connection."""
    engine = small()
    yield engine
    await engine.dispose()
