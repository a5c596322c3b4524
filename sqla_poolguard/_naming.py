"""What a pool is called: unique in the process, after the database it connects to. It never sees user or password."""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._ledger import Ledger

__all__ = ["Claim", "address_of", "claim", "ledgers", "listen"]

_taken: Final[weakref.WeakValueDictionary[str, Claim]] = weakref.WeakValueDictionary()
_listeners: Final[list[Callable[[str, Ledger], None]]] = []
_lock = threading.Lock()
_DATABASE_KEYS: Final = ("database", "dbname", "db")


class Claim:
    """
    A name that is taken as long as this lives; only the engine keeps it.

    It is not the books that hold the name: an exporter may just be reading them when the engine is dropped and made anew.
    """

    __slots__ = ("__weakref__", "ledger", "name")

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name, self.ledger = name, ledger


def claim(name: str, ledger: Ledger) -> Claim:
    """Reserve a name for these books; a name that is taken gets a number (`orders#2`)."""
    with _lock:
        unique, number = name, 1
        while unique in _taken:
            number += 1
            unique = f"{name}#{number}"
        _taken[unique] = taken = Claim(unique, ledger)
        for listener in _listeners:
            listener(unique, ledger)
        return taken


def listen(listener: Callable[[str, Ledger], None]) -> None:
    """Be told the name and the books of every engine, those that live first; it must not make an engine meanwhile."""
    with _lock:
        for name, ledger in _living():
            listener(name, ledger)
        _listeners.append(listener)


def _forked() -> None:
    global _lock  # noqa: PLW0603 - the thread that had it is not in the child, and would never let go
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def ledgers() -> list[Ledger]:
    """Give the books of every engine that lives."""
    with _lock:
        return [ledger for _, ledger in _living()]


def _living() -> list[tuple[str, Ledger]]:
    """Give names and books, and keep no claim; under the lock, so that nobody finds a name taken for it."""
    return [(name, taken.ledger) for name, taken in list(_taken.items())]


def address_of(creator: Callable[..., Any], dialect: object) -> str:
    """
    Tell which database a pool's creator connects to, as `host:port/database`.

    SQLAlchemy does not tell a pool its URL; the function that `create_engine` makes for it does, in its closure.
    A creator of the application's own tells nothing: then it is the name of the dialect.
    """
    fallback = str(getattr(dialect, "name", None) or "pool")
    try:
        known = inspect.getclosurevars(creator).nonlocals
    except (TypeError, ValueError):
        return fallback
    options = known.get("cparams")
    if isinstance(options, Mapping) and any(options.get(key) for key in ("host", *_DATABASE_KEYS)):
        database = next((options[key] for key in _DATABASE_KEYS if options.get(key)), None)
        where = _where(options.get("host") or "localhost", options.get("port"))
        return f"{where}/{database}" if database else where
    arguments = known.get("cargs_tup", known.get("cargs"))
    if fallback == "sqlite" and isinstance(arguments, Sequence) and arguments and isinstance(arguments[0], str):
        return f"{fallback}:{arguments[0].partition('?')[0]}"
    return fallback


def _where(host: object, port: object) -> str:
    """Write host and port; a driver that fails over takes a list of each."""
    hosts = [str(one).rpartition("@")[2] for one in (host if isinstance(host, (list, tuple)) else [host])]  # an @ of a password
    ports = list(port) if isinstance(port, (list, tuple)) else [port] * len(hosts)
    return ",".join(f"{one}:{at}" if at else one for one, at in zip(hosts, ports, strict=False))
