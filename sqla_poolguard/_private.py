"""The private parts of SQLAlchemy on which the fast lane stands, and whether they are as it knows them."""

from __future__ import annotations

import inspect
import operator
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.event import attr
from sqlalchemy.pool import NullPool, base

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["LINE_2_1", "changed_part"]

LINE_2_1: Final = hasattr(base._ConnectionRecord, "needs_gc")
"""Whether this is SQLAlchemy 2.1 or later."""

_PARTS: Final[dict[str, tuple[ModuleType, tuple[str, ...]]]] = {
    "_ConnectionFairy._checkout": (base, ("pool", "threadconns", "fairy")),
    "_ConnectionFairy._checkin": (base, ("self", "transaction_was_reset")),
    "_ConnectionFairy._close_special": (base, ("self", "transaction_reset")),
    "_ConnectionRecord._checkin_failed": (base, ("self", "err", "_fairy_was_created")),
    "_finalize_fairy": (
        base,
        ("dbapi_connection", "connection_record", "pool", "echo", "transaction_was_reset", "fairy", "is_gc_cleanup")
        if LINE_2_1
        else ("dbapi_connection", "connection_record", "pool", "ref", "echo", "transaction_was_reset", "fairy"),
    ),
    "_EmptyListener.__init__": (attr, ("self", "parent", "target_cls")),
}
"""Functions: where they are, and the names of their parameters."""

_SLOTS: Final[dict[str, tuple[ModuleType, set[str]]]] = {
    "_ConnectionFairy.__slots__": (
        base,
        {"dbapi_connection", "_connection_record", "_echo", "_pool", "_counter"} | ({"_finalizer"} if LINE_2_1 else set()),
    ),
    "_EmptyListener.__slots__": (attr, {"parent_listeners"}),
}
"""Attributes of classes that must be among their slots."""

_OF_A_POOL: Final = ("_invalidate_time", "_recycle", "_pre_ping", "_reset_on_return", "_dialect", "dispatch", "logger")
_OF_A_RECORD: Final = ("_soft_invalidate_time", "starttime", "fairy_ref", "finalize_callback", "dbapi_connection")


def changed_part() -> str | None:
    """Name the first of SQLAlchemy's private parts that is not as this module knows it; None if all are."""
    for name, (module, parameters) in _PARTS.items():
        part = _find(module, name)
        if part is None or tuple(inspect.signature(part).parameters) != parameters:
            return name
    for name, (module, slots) in _SLOTS.items():
        if not slots <= set(_find(module, name) or ()):
            return name
    return _odd_behaviour()


def _odd_behaviour() -> str | None:
    """Try what cannot be read off a signature, on a pool that connects to nothing; name what is not as expected."""

    class Probe(NullPool):
        pass

    def ignore(*_: object) -> Any:
        pass

    pool = Probe(ignore)
    record = base._ConnectionRecord(pool, connect=False)
    for owner, attributes in ((pool, _OF_A_POOL), (record, _OF_A_RECORD)):
        for attribute in attributes:
            if not hasattr(owner, attribute):
                return f"{'Pool' if owner is pool else '_ConnectionRecord'}.{attribute}"
    dispatcher: Any = pool.dispatch
    silent: Any = dispatcher.checkout
    event.listen(Probe, "checkout", ignore)
    if not silent.parent_listeners:
        return "the listeners of a class of pools"
    event.listen(pool, "checkout", ignore)
    if pool.dispatch is not dispatcher:
        return "the dispatcher of a pool"
    if dispatcher.checkout is silent:
        return "the listeners of a pool"
    return None


def _find(module: ModuleType, name: str) -> Any:
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        return None
