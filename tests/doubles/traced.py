"""
A small FastAPI application whose requests meet every kind of wait and hold, each in a trace of its own.

It runs on a real PostgreSQL and in real time, and waits for states, not for times; what a span must be long for is slept.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
from fastapi import FastAPI, Response
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import Guard, GuardedPool, Observer, snapshot

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

LONG = 0.15
"""Seconds that are worth a span, or a finding."""
TIMEOUT = 1.0
PATIENCE = 20

SOURCE = str(Path(__file__))


def line_of(mark):
    """Find the line of this file that ends with a mark."""
    (number,) = (n for n, line in enumerate(Path(SOURCE).read_text("utf-8").splitlines(), 1) if line.endswith(f"# {mark}"))
    return number


class Findings(Observer):
    """Notes what was found."""

    def __init__(self):
        self.pools = set()

    def found(self, finding):
        """Note the pool."""
        self.pools.add(finding.pool)


class Drawn(SpanProcessor):
    """Notes which spans have ended."""

    def __init__(self):
        self.names = set()

    def on_end(self, span):
        """Note the name."""
        self.names.add(span.name)


async def until(state):
    """Wait for a state."""
    async with asyncio.timeout(PATIENCE):
        while not state():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


class Traced:
    """The application; its engines have providers of their own, so that it touches nothing global."""

    def __init__(self, url: str, tracer_provider: Any, meter_provider: Any, prefix: str = "") -> None:
        """
        Open nothing yet.

        Args:
            url: of a PostgreSQL.
            tracer_provider: whose tracers draw the requests and the pools.
            meter_provider: whose meters measure the pools.
            prefix: of the names of its pools, which are unique in a process.
        """
        self.prefix = prefix
        self.requests: dict[str, ReadableSpan] = {}
        """The span of each request, by its name."""
        self.statuses: dict[str, int] = {}
        """What each request got."""
        self.findings = Findings()
        self.drawn = Drawn()
        self.url = url
        tracer_provider.add_span_processor(self.drawn)
        self.tracer = tracer_provider.get_tracer("application")
        self._providers = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
        self.answers: dict[str, asyncio.Event] = {}
        """By pool, that for which its holder waits."""
        self.engines: dict[str, Any] = {}
        self.app = FastAPI()
        self.app.get("/hold/{pool}")(self.hold)
        self.app.get("/ask/{pool}")(self.ask)
        self.app.get("/forget/{pool}")(self.forget)
        self.app.add_middleware(RequestSpans, traced=self)

    def open(self, pool: str, **options: Any) -> None:
        """Open a pool with room for one."""
        guarding = options.pop("guarding", {})
        guard = Guard(name=self.prefix + pool, await_warning=LONG, observers=(self.findings,), **self._providers, **guarding)
        options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": PATIENCE, **options}
        url = options.pop("url", self.url)
        self.engines[pool] = create_async_engine(url, poolclass=GuardedPool, guard=guard, **options)
        self.answers[pool] = asyncio.Event()

    async def connect(self) -> asyncpg.Connection:
        """Open a connection outside of every pool."""
        url = make_url(self.url)
        return await asyncpg.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, database=url.database
        )

    async def hold(self, pool: str):
        """Keep a connection while it waits for an answer."""
        async with self.engines[pool].connect() as connection:  # holds
            await connection.execute(text("select 1"))
            await self.answers[pool].wait()  # awaits

    async def ask(self, pool: str):
        """Need a connection for a moment."""
        try:
            async with self.engines[pool].connect() as connection:  # asks
                await connection.execute(text("select 1"))
        except (PoolTimeoutError, OSError):
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        return Response()

    async def forget(self, pool: str):
        """Lose a connection, after it was held across an await: where in a trace a hold is, only samples tell."""
        connection = await self.engines[pool].connect()  # forgets
        await connection.execute(text("select 1"))
        await until(lambda: self.prefix + pool in self.findings.pools)

    async def get(self, path: str) -> None:
        """Make a request."""
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://shop") as client:
            self.statuses[f"GET {path}"] = (await client.get(path)).status_code

    @contextlib.asynccontextmanager
    async def held(self, pool: str):
        """Let a request hold the only connection of a pool, until the block ends."""
        holder = asyncio.create_task(self.get(f"/hold/{pool}"))
        await until(lambda: snapshot(self.engines[pool]).used == 1)
        try:
            yield
        finally:
            self.answers[pool].set()
            await holder

    async def queue(self, pool: str) -> asyncio.Task[None]:
        """Let a request wait for a connection."""
        waiter = asyncio.create_task(self.get(f"/ask/{pool}"))
        await until(lambda: snapshot(self.engines[pool]).waiting == 1)
        return waiter

    async def close(self) -> None:
        """Close all pools."""
        for engine in self.engines.values():
            await engine.dispose()


class RequestSpans:
    """Draws a span for each request, as any instrumentation would."""

    def __init__(self, app, traced):
        self._app, self._traced = app, traced

    async def __call__(self, scope, receive, send):
        """Serve a request."""
        name = f"{scope['method']} {scope['path']}"
        with self._traced.tracer.start_as_current_span(name, kind=SpanKind.SERVER) as span:
            self._traced.requests[name] = span

            async def send_and_note(message):
                if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, send_and_note)


async def play(traced: Traced) -> None:
    """Play every story at the same time, each on a pool of its own."""
    async with asyncio.TaskGroup() as group:
        for story in (_granted, _timed_out, _turned_away, _cancelled, _slow_connect, _refused, _forgotten):
            group.create_task(story(traced))
    await traced.close()


async def _granted(traced):
    """A request waits until the holder, who awaits something else, gives its connection back."""
    traced.open("granted")
    async with traced.held("granted"):
        waiter = await traced.queue("granted")
        await until(lambda: traced.prefix + "granted" in traced.findings.pools)
        await asyncio.sleep(LONG)
    await waiter


async def _timed_out(traced):
    """A request waits in vain. The timeout is the holder's, too, and so its connection is opened before."""
    opened = await traced.connect()

    async def connect():
        return opened

    traced.open("timed-out", pool_timeout=TIMEOUT, async_creator=connect)
    async with traced.held("timed-out"):
        await traced.get("/ask/timed-out")


async def _turned_away(traced):
    """A request may not even wait."""
    traced.open("turned-away", guarding={"max_waiting": 0})
    async with traced.held("turned-away"):
        await traced.get("/ask/turned-away")


async def _cancelled(traced):
    """A client goes away while its request waits."""
    traced.open("cancelled")
    async with traced.held("cancelled"):
        waiter = await traced.queue("cancelled")
        await asyncio.sleep(LONG)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)


async def _slow_connect(traced):
    """A request waits for nobody, but the server is slow to connect to."""

    async def connect():
        await asyncio.sleep(LONG)
        return await traced.connect()

    traced.open("slow-connect", async_creator=connect)
    await traced.get("/ask/slow-connect")


async def _refused(traced):
    """Nobody listens where the server should be."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        traced.open("refused", url=make_url(traced.url).set(port=unheard.getsockname()[1]), guarding={"breaker": False})
        await traced.get("/ask/refused")


async def _forgotten(traced):
    """A connection is lost, and found by the garbage collector."""
    traced.open("forgotten")
    await traced.get("/forget/forgotten")
    gc.collect()
    await until(lambda: f"pool.hold {traced.prefix}forgotten" in traced.drawn.names)
