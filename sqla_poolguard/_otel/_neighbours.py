"""Does another instrumentation count the connections of the same pool? It knows those that are about, and imports none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["counted_by_others"]

_CONTRIB: Final = "opentelemetry.instrumentation.sqlalchemy"
"""logfire's `instrument_sqlalchemy()` is this one too."""


def counted_by_others(listeners: Iterable[object]) -> str | None:
    """
    Give the name of the metric with which another instrumentation counts a pool's connections; None if none does.

    Args:
        listeners: who is told of the pool's checkouts.
    """
    for listener in listeners:
        owner = getattr(listener, "__self__", None)
        if type(owner).__module__.startswith(_CONTRIB):
            instrument = getattr(owner, "connections_usage", None)
            name = getattr(instrument, "name", None) or getattr(
                instrument, "_name", None
            )  # an SDK's, or one that waits for an SDK
            if isinstance(name, str):
                return name
    return None
