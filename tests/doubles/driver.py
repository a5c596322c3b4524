"""The fake driver of `sqla_poolguard.testing`, under the name that our tests know."""

from __future__ import annotations

from sqlalchemy.util.concurrency import greenlet_spawn

from sqla_poolguard._testing.driver import FakeConnection, FakeDriver, Gate

__all__ = ["FakeConnection", "FakeDriver", "Gate", "greenlet_spawn"]
