"""
A service in trouble, with its metrics on two ports: by our own collector, and by OpenTelemetry's exporter.

`python shop.py postgresql+asyncpg://…` prints the two ports. It keeps on until a line comes in, then only serves them until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import threading

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, start_http_server
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import Guard, GuardedPool
from sqla_poolguard.prometheus import register

WORK = text("SELECT pg_sleep(0.02)")
NOWHERE = "postgresql+asyncpg://nobody@127.0.0.1:1/nowhere"


def pool(url, name, size, overflow, **options):
    """Make an engine with a pool of that name."""
    guard = Guard(name=name, **options)
    return create_async_engine(url, poolclass=GuardedPool, pool_size=size, max_overflow=overflow, pool_timeout=0.25, guard=guard)


async def work(db, away=0.0):
    """Query, then hold the connection while something else is awaited."""
    async with db.connect() as connection:
        await connection.execute(WORK)
        await asyncio.sleep(away)


async def leak(db):
    """Lose a connection."""
    connection = await db.connect()
    await connection.execute(WORK)
    del connection
    gc.collect()
    await asyncio.sleep(0.1)


async def nest(db):
    """Ask for a second connection while holding the only one."""
    async with db.connect():
        await work(db)


async def again(stop, job, *arguments):
    """Do a thing until it is enough, whatever becomes of it."""
    while not stop.is_set():
        with contextlib.suppress(SQLAlchemyError, OSError):
            await job(*arguments)
        await asyncio.sleep(0.01)


async def main(url):
    """Play until a line comes in."""
    engines = {
        "busy": pool(url, "busy", 2, 1, await_warning=0.1, max_wait=0.1),
        "strict": pool(url, "strict", 1, 1, fail_fast=True, max_wait=0.05, max_waiting=2),
        "nested": pool(url, "nested", 1, 0),
        "calm": pool(url, "calm", 2, 0),
        "away": pool(NOWHERE, "away", 1, 0),
    }
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=lambda: (sys.stdin.readline(), loop.call_soon_threadsafe(stop.set)), daemon=True).start()
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(again(stop, work, engines["busy"], 0.5 if number % 2 else 0.0))
            group.create_task(again(stop, work, engines["strict"]))
        group.create_task(again(stop, leak, engines["calm"]))
        group.create_task(again(stop, nest, engines["nested"]))
        group.create_task(again(stop, work, engines["away"]))
    print("quiet", flush=True)  # noqa: T201 - the test waits for it
    await asyncio.to_thread(sys.stdin.read)


def serve():
    """Serve the metrics both ways; give the ports."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    register(ours)
    resource = Resource.create({"service.name": "shop"})
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader(registry=theirs)], resource=resource))
    return [start_http_server(0, addr="127.0.0.1", registry=registry)[0].server_port for registry in (ours, theirs)]


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(*serve(), flush=True)  # noqa: T201 - the test reads it
    asyncio.run(main(sys.argv[1]))
