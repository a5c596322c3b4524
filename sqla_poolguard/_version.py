"""Which version this is, also where it runs from a checkout that was never installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["own_version"]


def own_version() -> str:
    """Give the installed version, or "0+checkout"."""
    try:
        return version("sqla-poolguard")
    except PackageNotFoundError:
        return "0+checkout"
