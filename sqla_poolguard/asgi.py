"""
503 for the caller, deadlines from a header, probes and a debug page, for any ASGI application.

Importing it imports no framework.
"""

from __future__ import annotations

from sqla_poolguard._asgi.debug import debug_page
from sqla_poolguard._asgi.handlers import add_exception_handlers, litestar_handlers, no_connection
from sqla_poolguard._asgi.middleware import PoolGuardMiddleware
from sqla_poolguard._asgi.probes import liveness, readiness

__all__ = [
    "PoolGuardMiddleware",
    "add_exception_handlers",
    "debug_page",
    "litestar_handlers",
    "liveness",
    "no_connection",
    "readiness",
]
