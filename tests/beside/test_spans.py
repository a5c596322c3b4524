"""Beside OpenTelemetry's own instrumentations of SQLAlchemy and asyncpg, and logfire: nothing is drawn twice, and pings by nobody."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest
from doubles.virtual import until
from opentelemetry import context
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_poolguard import Guard, GuardedPool

pytestmark = pytest.mark.postgres

ONE = text("SELECT 1")
PINGS = {"pool": {"guard": {"ping_after": 0.01}}, "sqlalchemy": {"pool_pre_ping": True}}


@pytest.fixture
def exporter():
    """Instrument everything, with a provider of the test's own, and take it back."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentors = (AsyncPGInstrumentor(), SQLAlchemyInstrumentor())
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=provider)
    exporter.provider = provider
    yield exporter
    for instrumentor in instrumentors:
        instrumentor.uninstrument()
    provider.shutdown()


def engine(url, exporter, *, guard=None, **options):
    """Make an engine as an application does; the instrumentation has replaced the function."""
    guarded = Guard(tracer_provider=exporter.provider, **(guard or {}))
    return sqlalchemy_asyncio.create_async_engine(url, poolclass=GuardedPool, guard=guarded, **options)


def names(exporter):
    """Give the names of the spans that have finished, but for ours (a machine may be slow to connect), and forget them."""
    found = [span.name for span in exporter.get_finished_spans() if not span.name.startswith("pool.")]
    exporter.clear()
    return found


@pytest.mark.parametrize("who", PINGS)
async def test_pings_are_not_drawn(postgres_url, exporter, who):
    """A ping makes no span of anybody's, neither the pool's own nor SQLAlchemy's; the statement that follows makes one."""
    db = engine(postgres_url, exporter, **PINGS[who])
    async with db.connect():
        pass
    pid = await _pid(db)
    names(exporter)
    await asyncio.sleep(0.05)
    async with db.connect() as connection:
        drawn = names(exporter)
        await connection.execute(ONE)
    assert drawn == ["connect"]
    assert names(exporter) == ["BEGIN;", "SELECT", "SELECT", "ROLLBACK;"]
    assert await _pid(db) == pid
    await db.dispose()


async def _pid(db):
    async with db.connect() as connection:
        return (await connection.execute(text("SELECT pg_backend_pid()"))).scalar()


@pytest.mark.parametrize("who", PINGS)
async def test_failed_ping(postgres_url, exporter, who):
    """After a ping that fails, or is cancelled, instrumentations see again; the connect that follows is theirs."""
    db, other = engine(postgres_url, exporter, **PINGS[who]), engine(postgres_url, exporter)
    async with other.connect() as connection:
        await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": await _pid(db)})
    await asyncio.sleep(0.05)
    names(exporter)
    async with db.connect() as connection:
        await connection.execute(ONE)
    assert names(exporter) == ["connect", "BEGIN;", "SELECT", "SELECT", "ROLLBACK;"]
    await asyncio.sleep(0.05)

    async def ask():
        try:
            await (await db.connect()).close()
        finally:
            seen.append(context.get_current())

    seen = []
    task = asyncio.create_task(ask())
    await until(lambda: db.sync_engine.pool.snapshot().waiting)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "suppress_instrumentation" not in seen[0]
    await db.dispose()
    await other.dispose()


async def test_a_wait_is_drawn_inside_connect(postgres_url, exporter):
    """The wait is a child of the instrumentation's `connect`, once, and is linked to the holder's own span."""
    db = engine(postgres_url, exporter, pool_size=1, max_overflow=0)
    tracer = exporter.provider.get_tracer("application")
    async with db.connect():
        pass
    exporter.clear()

    async def request(name, seconds):
        with tracer.start_as_current_span(name):
            async with AsyncSession(db) as session:
                await session.execute(ONE)
                await asyncio.sleep(seconds)

    holder = asyncio.create_task(request("holder", 0.2))
    await until(db.sync_engine.pool.checkedout)
    await asyncio.gather(holder, request("waiter", 0))
    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    (acquired,) = (span for span in spans if span.name.startswith("pool.acquire"))
    connect = by_id[acquired.parent.span_id]
    assert (connect.name, by_id[connect.parent.span_id].name) == ("connect", "waiter")
    assert [span.name for span in spans].count("connect") == 2
    assert by_id[acquired.links[0].context.span_id].name == "holder"
    assert connect.start_time <= acquired.start_time <= acquired.end_time <= connect.end_time
    (held,) = (span for span in spans if span.name == "holder")
    assert [event.name for event in held.events] == ["poolguard.blocked_waiter"]
    await db.dispose()


LOGFIRE = """
import asyncio, json, sys
import logfire
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqla_poolguard import Guard, GuardedPool
db = create_async_engine(sys.argv[1], poolclass=GuardedPool, pool_size=1, max_overflow=0, guard=Guard(name="orders", hold_warning=0.2))
logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[SimpleSpanProcessor(exporter)])
logfire.instrument_sqlalchemy(engine=db)
logfire.instrument_asyncpg()

async def request(name, seconds):
    with logfire.span(name):
        async with AsyncSession(db) as session:
            await session.execute(text("SELECT 1"))
            await asyncio.sleep(seconds)

async def main():
    async with db.connect():
        pass  # what follows is not about connecting
    holder = asyncio.create_task(request("holder", 0.5))
    while not db.sync_engine.pool.checkedout():
        await asyncio.sleep(0)
    await asyncio.gather(holder, request("waiter", 0))
    await db.dispose()

asyncio.run(main())
spans = [span for span in exporter.get_finished_spans() if span.attributes.get("logfire.span_type") != "pending_span"]
by_id = {span.context.span_id: span for span in spans}
def line(span):
    return [span.name] + (line(by_id[span.parent.span_id]) if span.parent else [])
print(json.dumps({
    "lines": [line(span) for span in spans if span.name.startswith("pool.") and line(span)[-1] in {"holder", "waiter"}],
    "links": [by_id[link.context.span_id].name for span in spans if span.name.startswith("pool.acquire") for link in span.links],
    "told": [event.name for span in spans if span.name == "holder" for event in span.events],
}))
"""


def test_logfire(postgres_url):
    """With logfire, configured after the engine is made, our spans are in its traces, each once."""
    done = subprocess.run([sys.executable, "-c", LOGFIRE, postgres_url], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "lines": [["pool.hold orders", "holder"], ["pool.acquire orders", "connect", "waiter"]],
        "links": ["holder"],
        "told": ["poolguard.blocked_waiter"],
    }
