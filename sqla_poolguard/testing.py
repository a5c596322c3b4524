"""
For tests of applications that use `GuardedPool`, with pytest, unittest or neither.

What a block does with its connections (`no_leaks`, `max_concurrent`, `released_before_response`), a clock that a test sets,
a fake driver with gates, and a pool that is full for a while.
"""

from __future__ import annotations

from sqla_poolguard._testing.blocks import max_concurrent, no_leaks, released_before_response
from sqla_poolguard._testing.clock import FakeClock
from sqla_poolguard._testing.driver import FakeConnection, FakeDriver, Gate
from sqla_poolguard._testing.exhaustion import exhaust
from sqla_poolguard._testing.forbidding import ForbiddenCallError
from sqla_poolguard._testing.policy import PoolguardWarning
from sqla_poolguard._testing.stays import Stay
from sqla_poolguard._testing.watching import ConnectionWatch

__all__ = [
    "ConnectionWatch",
    "FakeClock",
    "FakeConnection",
    "FakeDriver",
    "ForbiddenCallError",
    "Gate",
    "PoolguardWarning",
    "Stay",
    "exhaust",
    "max_concurrent",
    "no_leaks",
    "released_before_response",
]
