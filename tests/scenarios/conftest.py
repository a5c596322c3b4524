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
    """Run every scenario in each kind of loop, or in those that `POOLGUARD_LOOPS` names; uvloop and eager tasks from Python 3.12 on."""
    factories = {"asyncio": asyncio.new_event_loop}
    if sys.version_info >= (3, 12):
        import uvloop  # noqa: PLC0415

        factories |= {"uvloop": uvloop.new_event_loop, "eager": _eager}
    wanted = os.environ.get("POOLGUARD_LOOPS")
    return {name: factories[name] for name in wanted.split(",")} if wanted else factories
