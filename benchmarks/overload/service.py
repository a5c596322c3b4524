"""The service that is overloaded, in a process of its own: `GET /work?seconds=0.1&id=7` lets PostgreSQL sleep for so long."""

from __future__ import annotations

import argparse
import gc
import logging
import time
from typing import TYPE_CHECKING, Any

import sqlalchemy.exc
import uvicorn
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from benchmarks.overload.stalls import Stalls
from sqla_poolguard import Guard, GuardedPool, priority
from sqla_poolguard.asgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from starlette.requests import Request

SLEEP = text("SELECT pg_sleep(:seconds)")


class Service:
    """What it does, and what it has seen since it was asked last. It works on when a client has left, as most do."""

    def __init__(self, pool: str, dsn: str, connections: int) -> None:
        """
        Make one that has opened no connection yet.

        Args:
            pool: `stock` or `guarded`.
            dsn: URL of the database.
            connections: in the pool.
        """
        options: dict[str, Any] = {"poolclass": AsyncAdaptedQueuePool}
        if pool == "guarded":
            options = {"poolclass": GuardedPool, "guard": Guard(name="orders", fail_fast=True)}
        self.is_guarded = pool == "guarded"
        self.engine = create_async_engine(dsn, pool_size=connections, max_overflow=0, **options)
        self.granted: dict[str, float] = {}
        """When an attempt got its connection, on the monotonic clock."""
        self.refused: dict[str, float] = {}
        """When it was told that it gets none; its client may have left."""
        self.connects: list[float] = []
        """When connects were begun."""
        self.stalls: Stalls | None = None
        event.listen(self.engine.sync_engine, "do_connect", self._connects)

    def _connects(self, *_: object) -> None:
        self.connects.append(time.monotonic())

    def application(self) -> Starlette:
        """Give the application."""
        app = Starlette(routes=[Route("/work", self.work), Route("/seen", self.seen)])
        if self.is_guarded:
            app.add_middleware(PoolGuardMiddleware)
        return app

    async def work(self, request: Request) -> PlainTextResponse:
        """Answer 200; 503 for whom there is no connection; 500 if that broke."""
        asked = request.query_params
        try:
            with priority(request.headers.get("x-priority", "normal")):  # type: ignore[arg-type] # from our own client
                async with self.engine.connect() as connection:
                    self.granted[asked["id"]] = time.monotonic()
                    await connection.execute(SLEEP, {"seconds": float(asked["seconds"])})
        except (OSError, sqlalchemy.exc.SQLAlchemyError):
            if asked["id"] in self.granted:
                return PlainTextResponse("the connection broke", 500)
            self.refused[asked["id"]] = time.monotonic()
            if self.is_guarded:
                raise
            return PlainTextResponse("no", 503, {"retry-after": "1"})  # as it is often done
        return PlainTextResponse("done")

    async def seen(self, _: Request) -> JSONResponse:
        """Tell what was seen, since it was asked last."""
        self.stalls = self.stalls or Stalls()
        facts = {"granted": self.granted, "refused": self.refused, "connects": self.connects}
        seen = JSONResponse({**facts, "stalled": self.stalls.longest})
        self.stalls.forget()
        for each in facts.values():
            each.clear()  # type: ignore[attr-defined] # dicts and a list
        return seen


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pool", choices=("stock", "guarded"))
    parser.add_argument("dsn")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    arguments = parser.parse_args()
    logging.disable()
    app = Service(arguments.pool, arguments.dsn, arguments.connections).application()
    config = uvicorn.Config(app, port=arguments.port, log_level="critical", access_log=False, backlog=4096, lifespan="off")
    gc.collect()
    gc.freeze()  # as services do: what was imported is not looked through again and again, a tenth of a second each time
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
