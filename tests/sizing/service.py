"""A service under a steady load, on a real server: it shows its debug page at `/debug` and its metrics at `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from sqla_poolguard import Guard, GuardedPool
from sqla_poolguard.asgi import debug_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

RATE, IN_DATABASE, OUTSIDE = 40.0, 0.03, 0.07
"""Checkouts per second, and the seconds of each."""


def exposition(reader: InMemoryMetricReader) -> str:
    """Write the histogram of hold times as OpenTelemetry's exporter for Prometheus does."""
    name, lines = "db_client_connection_use_time_seconds", []
    data = reader.get_metrics_data()
    for metric in (metric for part in data.resource_metrics for scope in part.scope_metrics for metric in scope.metrics):
        for point in metric.data.data_points if metric.name == "db.client.connection.use_time" else ():
            label = f'db_client_connection_pool_name="{point.attributes["db.client.connection.pool.name"]}"'
            below = 0
            for end, count in zip((*point.explicit_bounds, "+Inf"), point.bucket_counts, strict=True):
                below += count
                lines.append(f'{name}_bucket{{{label},le="{end}"}} {below}')
            lines += [f"{name}_sum{{{label}}} {point.sum}", f"{name}_count{{{label}}} {point.count}"]
    return "\n".join([f"# TYPE {name} histogram", *lines, ""])


def main(url: str) -> None:
    """Serve until killed, and say on which port."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    engine = create_async_engine(url, poolclass=GuardedPool, pool_size=20, guard=Guard(name="orders"))
    other = create_async_engine(url, poolclass=GuardedPool, guard=Guard(name="reports"))

    async def hold() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": IN_DATABASE})
            await asyncio.sleep(OUTSIDE)

    async def load() -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(hold())
                await asyncio.sleep(random.expovariate(RATE))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        working = asyncio.create_task(load())
        yield
        working.cancel()

    async def shown(_: Request) -> PlainTextResponse:
        return PlainTextResponse(exposition(reader))

    routes = [Mount("/debug", debug_page(engine)), Mount("/both", debug_page(engine, other)), Route("/metrics", shown)]
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)  # noqa: T201 - how a test learns of it
    config = uvicorn.Config(Starlette(routes=routes, lifespan=lifespan), log_level="critical", access_log=False)
    uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    main(sys.argv[1])
