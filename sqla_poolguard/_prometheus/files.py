"""The files that come with the package: alert rules for Prometheus, a dashboard for Grafana."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["dashboard", "rules"]


def rules() -> str:
    """Give the recording and alert rules, as YAML for `rule_files` of Prometheus."""
    return _text("rules.yml")


def dashboard() -> str:
    """Give the Grafana dashboard, as JSON to import."""
    return _text("dashboard.json")


def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
