"""
Pool metrics for Prometheus, for those who do not use OpenTelemetry: a collector for `prometheus_client`, and what to do with its metrics.

    from sqla_poolguard.prometheus import register

    register()  # every pool of this process, in the default registry

The metrics have the names that OpenTelemetry's exporters give them, so that the alert rules (`rules()`) and the Grafana dashboard
(`dashboard()`) fit both.
"""

from __future__ import annotations

from sqla_poolguard._prometheus.collector import PoolCollector, register
from sqla_poolguard._prometheus.files import dashboard, rules

__all__ = ["PoolCollector", "dashboard", "register", "rules"]
