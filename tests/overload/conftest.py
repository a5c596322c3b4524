"""What runs in this process runs in virtual time, on the real pool; nobody looks at it in real time."""

from __future__ import annotations

import pytest

from sqla_poolguard._ticker import ticker


@pytest.fixture(autouse=True)
def nobody_looks(monkeypatch):
    """Keep the thread away that looks in real time at what happens in virtual time."""
    monkeypatch.setattr(ticker, "enabled", False)
