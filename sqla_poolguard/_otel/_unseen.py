"""Keeps what the pool does on its own behalf out of the spans of other instrumentations, if there are any."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["hush_pings", "unseen"]

_WHO_MAY: Final = "opentelemetry.instrumentation.utils"
"""Imported by every instrumentation of OpenTelemetry's; where it is not, there is none."""


def unseen() -> AbstractContextManager[None]:
    """
    Have instrumentations that are loaded draw nothing of what happens inside.

    Nothing that opens, gives out, takes back or closes a connection belongs in here: they count these too.
    """
    suppress = getattr(sys.modules.get(_WHO_MAY), "suppress_instrumentation", None)
    return suppress() if suppress is not None else contextlib.nullcontext()


def hush_pings(dialect: Any) -> None:
    """Have SQLAlchemy's own ping drawn by nobody, from now on; without an instrumentation there is nothing to do."""
    method = dialect.do_ping
    if _WHO_MAY not in sys.modules or hasattr(method, "poolguard"):
        return

    @functools.wraps(method)
    def do_ping(connection: Any) -> Any:
        with unseen():
            return method(connection)

    do_ping.poolguard = True  # type: ignore[attr-defined]
    dialect.do_ping = do_ping
