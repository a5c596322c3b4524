"""How forbidden calls are named, and which are known. It imports nothing of what it names."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._testing.replacing import is_mock

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["OUTER", "USUAL", "expand", "modules_of", "package_of", "read_calls", "target_of"]

_VERBS: Final = ("delete", "get", "head", "options", "patch", "post", "put", "request")
_CREATE: Final = {
    "chat.completions": ("Completions", ("create", "parse")),
    "responses": ("Responses", ("create", "parse")),
    "embeddings": ("Embeddings", ("create",)),
}
"""What tests mock of openai, in which of its modules."""

_INNER: Final = (
    *(f"httpx:AsyncClient.{method}" for method in ("send", "stream", *_VERBS)),
    *(f"httpx:{function}" for function in ("Client.send", "Client.stream", "stream")),
    "aiohttp:ClientSession._request",
    "aiohttp:ClientSession._ws_connect",
    "requests:Session.request",
    "requests:Session.send",
    "openai._base_client:AsyncAPIClient.request",
    "openai._base_client:SyncAPIClient.request",
    *(f"openai.resources.{module}:Async{name}.{method}" for module, (name, all_) in _CREATE.items() for method in all_),
    "time:sleep",
    "asyncio:sleep",
    "anyio:sleep",
)
"""Functions to stand before."""

OUTER: Final = frozenset(
    (
        *(f"httpx:{method}" for method in _VERBS),
        *(f"httpx:Client.{method}" for method in _VERBS),
        "aiohttp:request",
        *(f"aiohttp:ClientSession.{method}" for method in ("ws_connect", *_VERBS)),
        *(f"requests:{method}" for method in _VERBS),
        *(f"requests:Session.{method}" for method in _VERBS if method != "request"),
        *(f"openai.resources.{module}:{name}.{method}" for module, (name, all_) in _CREATE.items() for method in all_),
    )
)
"""Functions that do nothing but call one of those, there and then: only what a test puts in their place is to be watched."""

USUAL: Final = (*_INNER, *sorted(OUTER))
"""What "usual" stands for."""
_KNOWN: Final = frozenset(USUAL)

_CALL: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_ALLOWED: Final = "allowed: usual, or module:name, such as app.llm:Client.complete"


def read_calls(option: str, value: object) -> tuple[str, ...]:
    """
    Read the names of calls: "usual", or `module:name` of a function or a method.

    Raises:
        ValueError: one is neither. Whether there is such a module is not known yet: pytest may still add to the path.
    """
    lines = [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
    calls = tuple(call.strip() for line in lines for call in re.split("[,\n]", line) if call.strip())
    for call in calls or lines[:1]:  # commas alone are none
        if call == "usual":
            continue
        if not _CALL.fullmatch(call):
            msg = f"{option}: {call!r} is not allowed; {_ALLOWED}"
            raise ValueError(msg)
    return calls


def expand(calls: Iterable[str]) -> tuple[str, ...]:
    """Replace "usual" by what it stands for."""
    return tuple(dict.fromkeys(name for call in calls for name in (USUAL if call == "usual" else (call,))))


@functools.cache
def _parts(call: str) -> tuple[str, tuple[str, ...], str]:
    module, _, path = call.partition(":")
    *outer, name = path.split(".")
    return module, tuple(outer), name


@functools.cache
def package_of(call: str) -> str:
    """Name the top-level package of a call, or of a module."""
    return call.partition(":")[0].partition(".")[0]


def modules_of(calls: Iterable[str]) -> frozenset[str]:
    """Name the modules that have them."""
    return frozenset(call.partition(":")[0] for call in calls)


def target_of(call: str) -> tuple[Any, str] | None:
    """
    Find what has the function as an attribute, and its name there; None if its module is not imported.

    Raises:
        ValueError: there is no such module, or it has no such function. Of those that are usual, versions differ: then None.
    """
    module, outer, name = _parts(call)
    owner: Any = sys.modules.get(module)
    if owner is None:
        package = package_of(call)
        if call not in _KNOWN and package not in sys.modules and importlib.util.find_spec(package) is None:
            msg = f"poolguard_forbidden_calls: {call!r} is not allowed: there is no module {package!r}; allowed: usual, or module:name"
            raise ValueError(msg)
        return None
    for part in outer:
        owner = getattr(owner, part, None)
    if owner is None or not (is_mock(owner) or hasattr(owner, name)):  # to ask a mock is to make one more
        if call in _KNOWN:
            return None
        path = ".".join((*outer, name))
        msg = f"poolguard_forbidden_calls: {call!r} is not allowed: module {module!r} has no {path!r}"
        raise ValueError(msg)
    return owner, name
