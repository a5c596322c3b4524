"""
Which instruments and which spans belong to a provider: one set for each, which its engines share.

It keeps no provider alive, and what is made with a provider keeps no pool.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from opentelemetry.metrics import get_meter, get_meter_provider
from opentelemetry.trace import get_tracer, get_tracer_provider

from sqla_poolguard._otel._metrics import Metrics
from sqla_poolguard._otel._names import SCHEMA_URL, SCOPE
from sqla_poolguard._otel._spans import Spans
from sqla_poolguard._version import own_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["metrics_of", "spans_of"]

_P = TypeVar("_P")
_T = TypeVar("_T")

_once = threading.RLock()
"""Against two threads that make the same thing twice; made anew in a forked child, where nobody would ever let go of it."""


class _Shared(Generic[_P, _T]):
    """
    What was made with each provider.

    Both sides are weak: a pool that uses it keeps it alive, and so does an SDK that has one of its callbacks.
    """

    def __init__(self, make: Callable[[_P], _T]) -> None:
        self._make = make
        self._made: weakref.WeakKeyDictionary[_P, weakref.ref[_T]] = weakref.WeakKeyDictionary()

    def known(self, provider: _P) -> _T | None:
        """Give what belongs to a provider, if anybody has it."""
        try:
            known = self._made.get(provider)
        except TypeError:  # it has no hash, or takes no weak reference
            return None
        return known() if known is not None else None

    def of(self, provider: _P) -> _T:
        """Give what belongs to a provider; make it when nobody has it."""
        try:
            hash(provider), weakref.ref(provider)
        except TypeError:  # each engine has its own
            return self._make(provider)
        made = self.known(provider)
        if made is None:
            made = self._make(provider)
            self._made[provider] = weakref.ref(made)
        return made


def metrics_of(provider: MeterProvider | None) -> Metrics:
    """Give the instruments of a meter provider; None stands for the application's global one, which may come later."""
    with _once:
        current = get_meter_provider()
        if (
            provider is None or provider is current
        ):  # one that an engine was given before it became the global one has its own set
            return _metrics.known(current) or _global_metrics()
        return _metrics.of(provider)


def spans_of(provider: TracerProvider | None) -> Spans:
    """Give what draws with a tracer provider; None stands for the application's global one, which may come later."""
    with _once:
        current = get_tracer_provider()
        if provider is None or provider is current:
            return _spans.known(current) or _global_spans()
        return _spans.of(provider)


def _make_metrics(provider: MeterProvider | None = None) -> Metrics:
    return Metrics(get_meter(SCOPE, own_version(), provider, SCHEMA_URL))


def _make_spans(provider: TracerProvider | None = None) -> Spans:
    return Spans(get_tracer(SCOPE, own_version(), provider, SCHEMA_URL))


_metrics: Final[_Shared[MeterProvider, Metrics]] = _Shared(_make_metrics)
_spans: Final[_Shared[TracerProvider, Spans]] = _Shared(_make_spans)
_global_metrics: Final = functools.cache(_make_metrics)
_global_spans: Final = functools.cache(_make_spans)


def _forked() -> None:
    global _once  # noqa: PLW0603 - as it says above
    _once = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
