"""For our users' tests: a clock that a test sets, a fake driver with gates, and a pool that is full for a while."""

from __future__ import annotations

from sqla_poolguard._testing.clock import FakeClock
from sqla_poolguard._testing.driver import FakeConnection, FakeDriver, Gate
from sqla_poolguard._testing.exhaustion import exhaust

__all__ = ["FakeClock", "FakeConnection", "FakeDriver", "Gate", "exhaust"]
