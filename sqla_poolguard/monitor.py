"""
A background task that asks the server what it knows of the connections that are out, and warns.

`PoolMonitor` has a connection of its own beside the pool: it works while the pool is exhausted, and takes nobody's place.
"""

from __future__ import annotations

from sqla_poolguard._monitor.facts import Alarm, AlarmKind, Blocker, MonitorRow, Session
from sqla_poolguard._monitor.task import PoolMonitor

__all__ = ["Alarm", "AlarmKind", "Blocker", "MonitorRow", "PoolMonitor", "Session"]
