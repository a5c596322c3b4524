"""
The server process: uvicorn on a loopback port, the shops, and a few control routes for the acts.

It reads its settings from the first line of its standard input and ends when that input ends, so that it never
outlives the process that started it. What it logs goes to its standard output, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import sys
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from sqla_poolguard._cli.demo.files import allow_many_files
from sqla_poolguard._cli.demo.settings import PAYMENT_SECONDS, ServerSettings
from sqla_poolguard._cli.demo.shops import open_shops

if TYPE_CHECKING:
    from starlette.requests import Request

    from sqla_poolguard._cli.demo.shops import Shop
    from sqla_poolguard._cli.demo.telemetry import Telemetry

__all__ = ["main"]

_GRACE_SECONDS: Final = 8.0


class _Channel(logging.Handler):
    """Writes log records to the pipe that the acts read."""

    def __init__(self, pipe: int) -> None:
        super().__init__(logging.WARNING)
        self._pipe = os.fdopen(pipe, "w", encoding="utf-8", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.say(
            event="log",
            logger=record.name,
            level=record.levelname,
            message=record.getMessage(),
            error=str(error) if error else None,
        )

    def say(self, **values: Any) -> None:
        """Write one line; nobody may be reading any more."""
        try:
            self._pipe.write(json.dumps(values) + "\n")
        except OSError:
            return


class _Control:
    """The routes by which the acts look behind the scene."""

    def __init__(self, shops: dict[str, Shop], telemetry: Telemetry | None) -> None:
        self._shops = shops
        self._telemetry = telemetry
        self.routes = [
            Route("/control/idle", self.idle),
            Route("/control/collect", self.collect, methods=["POST"]),
            Route("/control/flush", self.flush, methods=["POST"]),
            Route("/control/watch/{shop:path}", self.watch, methods=["POST"]),
            Route("/control/report/{shop:path}", self.report, methods=["POST"]),
            Route("/control/in-use/{shop:path}", self.in_use),
        ]

    async def idle(self, _request: Request) -> Response:
        """Answer, and touch no database: this opens a keep-alive connection."""
        return Response(status_code=204)

    async def collect(self, _request: Request) -> Response:
        """Do now what Python does now and then."""
        return JSONResponse({"collected": gc.collect()})

    async def flush(self, _request: Request) -> Response:
        """Send out all telemetry and tell what was sent."""
        sent = await asyncio.to_thread(self._telemetry.flush) if self._telemetry else {}
        return JSONResponse(sent)

    async def watch(self, request: Request) -> Response:
        """Begin to watch a shop."""
        self._shops[request.path_params["shop"]].watch()
        return Response(status_code=204)

    async def report(self, request: Request) -> Response:
        """End the watch and tell what was seen."""
        return JSONResponse(await self._shops[request.path_params["shop"]].report())

    async def in_use(self, request: Request) -> Response:
        """Tell how many connections of a shop are out."""
        return JSONResponse({"in_use": self._shops[request.path_params["shop"]].in_use()})


def main() -> None:
    """Run until standard input ends."""
    channel = _Channel(os.dup(1))
    os.dup2(2, 1)  # whatever prints must not break the JSON
    logging.basicConfig(level=logging.WARNING, handlers=[channel])
    logging.captureWarnings(capture=True)
    allow_many_files()
    settings = ServerSettings.from_json(json.loads(sys.stdin.readline()))
    asyncio.run(_serve(settings, channel))


async def _serve(settings: ServerSettings, channel: _Channel) -> None:
    telemetry = None
    if settings.otlp_traces is not None:
        from sqla_poolguard._cli.demo.telemetry import RequestSpans, Telemetry  # noqa: PLC0415 - needs the SDK

        telemetry = Telemetry(settings.otlp_protocol, settings.otlp_traces, settings.otlp_metrics)
    payments = httpx.AsyncClient(base_url=settings.payments, trust_env=False, timeout=PAYMENT_SECONDS + 10)
    shops = open_shops(settings.database, payments)
    mounts = [Mount(f"/{path}", shop.app) for path, shop in shops.items()]
    app: Any = Starlette(routes=[*_Control(shops, telemetry).routes, *mounts])
    if telemetry is not None and find_spec("fastapi.telemetry") is None:  # newer ones make request spans themselves
        app = RequestSpans(app)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as door:
        # h11 and asyncio on every machine, whatever else is installed: figures should not depend on it
        config = uvicorn.Config(
            app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
        channel.say(event="ready", port=door.getsockname()[1])
        try:
            await server.serve(sockets=[door])
        finally:
            for shop in shops.values():
                await shop.engine.dispose()
            await payments.aclose()
            if telemetry is not None:
                await asyncio.to_thread(telemetry.shutdown)


def _end_with_input(server: uvicorn.Server) -> None:
    """Stop the server when whoever started us has closed the pipe, or is no more."""
    while sys.stdin.readline():
        pass
    server.should_exit = True
    time.sleep(_GRACE_SECONDS)
    os._exit(1)
