"""A forked child never uses its parent's connections. It closes none either: they are the parent's."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard import _holds, _monitored
from sqla_poolguard._ticker import ticker

if TYPE_CHECKING:
    from sqla_poolguard._pool import GuardedPool

__all__ = ["guard_against_fork", "pools"]

_pools: Final[weakref.WeakSet[GuardedPool]] = weakref.WeakSet()
_of_the_parent: Final[list[Any]] = []
"""Connections inherited from the parent, kept for ever: even their finalizers could speak to the server."""


def guard_against_fork(pool: GuardedPool) -> None:
    """Let a pool forget its connections in every process that is forked from this one."""
    _pools.add(pool)


def pools() -> list[GuardedPool]:
    """Give every pool of this process that lives, also from another thread."""
    while True:
        try:
            return list(_pools)
        except RuntimeError:  # one was made meanwhile
            continue


def _in_child() -> None:
    for pool in pools():
        for record in pool._slots.abandon():
            _of_the_parent.append(record.dbapi_connection)
            record.dbapi_connection = None
            record.lease.granted_at = None
            fairy = record.fairy_ref() if record.fairy_ref is not None else None
            if fairy is not None:  # whoever holds a copy of it in the child can neither speak to the server nor close it
                fairy.dbapi_connection = None  # type: ignore[assignment] # as SQLAlchemy does
        pool._watch.forget()
        pool._connecting.forget()
    ticker.forget()
    _holds.forget()
    _monitored.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
