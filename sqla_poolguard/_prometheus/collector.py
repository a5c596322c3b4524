"""The collector: what a scrape calls. It measures nothing between two scrapes, and has no thread."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sqla_poolguard._prometheus.accounts import accounts
from sqla_poolguard._prometheus.families import Families
from sqla_poolguard._snapshot import guarded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["PoolCollector", "register"]

_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"


class PoolCollector:
    """
    Tells Prometheus about guarded pools, with no OpenTelemetry in between.

    Metrics and labels are those that OpenTelemetry's exporters give, less `otel_scope_*`; use one way or the other in a process.
    Gauges are read from the pools at each scrape; counters and histograms go on over `dispose()`, and when an engine is collected.
    `Guard(telemetry=False)` is about OpenTelemetry, and hides nothing here.
    """

    def __init__(self, *engines: AsyncEngine | Engine, each_process: bool = False) -> None:
        """
        Collect from pools.

        Args:
            engines: those to tell about, and no others; default: every one of this process, those that are made later included.
            each_process: with `prometheus_client`'s multiprocess mode, that every process is scraped by itself.

        Raises:
            ModuleNotFoundError: `prometheus_client` is not installed.
            RuntimeError: it is in multiprocess mode, where a scrape would tell of one process as if it were all.
            TypeError: an engine has no `GuardedPool`.
        """
        self._families = Families(_client().core)
        self._names = frozenset(guarded(engine).name for engine in engines)
        _refuse_multiprocess(each_process=each_process)
        self._accounts = accounts()

    def __repr__(self) -> str:
        return f"<PoolCollector of {', '.join(sorted(self._names)) or 'every pool'}>"

    def collect(self) -> Iterable[Metric]:
        """Give every metric as it is now."""
        return self._families.of([one for one in self._accounts.all() if not self._names or one.name in self._names])

    def describe(self) -> Iterable[Metric]:
        """Give every metric without a value: the registry refuses a second collector of the same."""
        return self._families.of([])


def register(
    registry: CollectorRegistry | None = None, *engines: AsyncEngine | Engine, each_process: bool = False
) -> PoolCollector:
    """
    Make a collector and register it; best before the first request, since what was measured earlier may be gone.

    Args:
        registry: where; default: that of `prometheus_client`.
        engines: see `PoolCollector`.
        each_process: see `PoolCollector`.

    Returns:
        The collector, for `registry.unregister()`.

    Raises:
        ValueError: there is a collector in the registry already, be it of other pools: name all engines in one call.
        ModuleNotFoundError, RuntimeError, TypeError: see `PoolCollector`.
    """
    collector = PoolCollector(*engines, each_process=each_process)
    chosen = _client().REGISTRY if registry is None else registry
    chosen.register(collector)
    return collector


def _client() -> Any:
    """Import `prometheus_client`, or tell how to get it."""
    try:
        import prometheus_client.core  # noqa: PLC0415 - it may be missing
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        msg = 'prometheus_client is not installed: pip install "sqla-poolguard[prometheus]" installs it'
        raise ModuleNotFoundError(msg, name=error.name) from None
    return prometheus_client


def _refuse_multiprocess(*, each_process: bool) -> None:
    folder = os.environ.get(_MULTIPROCESS) or os.environ.get(_MULTIPROCESS.lower())
    if folder and not each_process:
        msg = (
            f"{_MULTIPROCESS}={folder!r}: in this mode one process answers for all, but prometheus_client collects a pool's metrics from that "
            "one alone, and each scrape would show the pools of another process. Give each worker a /metrics of its own, on a port of its own, "
            "and say PoolCollector(each_process=True), or export by OpenTelemetry (OTLP). docs: how-to/prometheus"
        )
        raise RuntimeError(msg)
