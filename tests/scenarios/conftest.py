"""Scenarios play in every kind of event loop that there is: asyncio's, uvloop's, and one whose tasks start eagerly."""

from __future__ import annotations

import asyncio
import os
import sys


def _eager() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def pytest_asyncio_loop_factories(config, item):
    """Run every scenario in each kind of loop; uvloop and eager tasks from Python 3.12 on, unless `POOLGUARD_LOOPS` is asyncio."""
    factories = {"asyncio": asyncio.new_event_loop}
    if sys.version_info >= (3, 12) and os.environ.get("POOLGUARD_LOOPS") != "asyncio":
        import uvloop  # noqa: PLC0415

        factories |= {"uvloop": uvloop.new_event_loop, "eager": _eager}
    return factories
