"""
A SQLAlchemy asyncio pool that knows who holds every connection.

Names are looked up when first used (PEP 562), so that the pytest plugin can be loaded without importing SQLAlchemy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sqla_poolguard._facts import (
        Checkout,
        Downtime,
        Ending,
        Holder,
        HolderState,
        Opened,
        PoolSnapshot,
        Reason,
        Rejection,
        Site,
        Wait,
    )
    from sqla_poolguard._finding import Cause, Declaration, Finding, FindingKind, SlowStatement, Verdict, Waste
    from sqla_poolguard._guard import Guard
    from sqla_poolguard._holds import allow_hold
    from sqla_poolguard._observer import Observer
    from sqla_poolguard._overload import Overload, Priority
    from sqla_poolguard._pool import GuardedPool
    from sqla_poolguard._reclaim import ConnectionReclaimedError
    from sqla_poolguard._release import release
    from sqla_poolguard._snapshot import snapshot
    from sqla_poolguard._urgency import deadline, priority
    from sqla_poolguard.errors import CheckoutError, CheckoutRejected, CheckoutTimeout, DatabaseUnavailable, NoConnectionError

__all__ = [
    "Cause",
    "Checkout",
    "CheckoutError",
    "CheckoutRejected",
    "CheckoutTimeout",
    "ConnectionReclaimedError",
    "DatabaseUnavailable",
    "Declaration",
    "Downtime",
    "Ending",
    "Finding",
    "FindingKind",
    "Guard",
    "GuardedPool",
    "Holder",
    "HolderState",
    "NoConnectionError",
    "Observer",
    "Opened",
    "Overload",
    "PoolSnapshot",
    "Priority",
    "Reason",
    "Rejection",
    "Site",
    "SlowStatement",
    "Verdict",
    "Wait",
    "Waste",
    "allow_hold",
    "deadline",
    "priority",
    "release",
    "snapshot",
]

_HOMES: Final = {
    "_facts": (
        "Checkout",
        "Downtime",
        "Ending",
        "Holder",
        "HolderState",
        "Opened",
        "PoolSnapshot",
        "Reason",
        "Rejection",
        "Site",
        "Wait",
    ),
    "_finding": ("Cause", "Declaration", "Finding", "FindingKind", "SlowStatement", "Verdict", "Waste"),
    "_guard": ("Guard",),
    "_holds": ("allow_hold",),
    "_observer": ("Observer",),
    "_overload": ("Overload", "Priority"),
    "_pool": ("GuardedPool",),
    "_reclaim": ("ConnectionReclaimedError",),
    "_release": ("release",),
    "_urgency": ("deadline", "priority"),
    "_snapshot": ("snapshot",),
    "errors": ("CheckoutError", "CheckoutRejected", "CheckoutTimeout", "DatabaseUnavailable", "NoConnectionError"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module(f"{__name__}._version").own_version()
    home = _HOME_OF.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
