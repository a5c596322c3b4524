"""The one error of the demo: it could not run. Not for an act that ran and did not show what it should."""

from __future__ import annotations

__all__ = ["DemoError"]


class DemoError(Exception):
    """The demo cannot run; the message is one sentence that says why and what to do."""
