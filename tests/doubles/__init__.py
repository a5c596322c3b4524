"""Stand-ins for the tests: a driver with gates, and an event loop in which time passes only when nobody has anything to do."""

from __future__ import annotations
