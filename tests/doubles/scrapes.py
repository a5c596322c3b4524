"""A registry of `prometheus_client`, and what a scrape of it shows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sqla_poolguard import _naming
from sqla_poolguard._prometheus.accounts import accounts
from sqla_poolguard.prometheus import PoolCollector, register

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

POOL = "db_client_connection_pool_name"
SHORT = "db_client_connection_"


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Let nobody count any more at the end: a process that has had a collector goes on counting, and what other tests measure costs more."""
    try:
        yield
    finally:
        for collector in list(REGISTRY._collector_to_names):
            if isinstance(collector, PoolCollector):
                REGISTRY.unregister(collector)
        accounts.cache_clear()
        _naming._listeners.clear()


class Scrape:
    """A registry of its own, with a collector of some engines' pools, or of all."""

    def __init__(self, *engines: AsyncEngine) -> None:
        self.registry = CollectorRegistry()
        self.collector = register(self.registry, *engines)

    def text(self) -> str:
        """Give what Prometheus would read."""
        return generate_latest(self.registry).decode()

    def values(self, pool: str, *, zeros: bool = False) -> dict[str, float]:
        """Scrape, and give what there is of one pool by short name and label; the buckets are left out."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                labels = {**sample.labels}
                if labels.pop(POOL) == pool and "le" not in labels and (zeros or sample.value):
                    key = " ".join((sample.name.removeprefix(SHORT), *labels.values()))
                    assert key not in found, "one pool, one series"
                    found[key] = sample.value
        return found

    def buckets(self, pool: str, name: str) -> dict[str, float]:
        """Scrape, and give the buckets of one of a pool's histograms."""
        return {
            sample.labels["le"]: sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == f"{SHORT}{name}_bucket" and sample.labels[POOL] == pool
        }
