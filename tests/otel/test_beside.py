"""
Beside opentelemetry-instrumentation-sqlalchemy, and logfire, which wraps it: what they get wrong about a pool we do not.

They work with SQLAlchemy 2.0 only. What they say is looked at where the version is the one whose errors are known.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from doubles.driver import FakeDriver
from doubles.pools import all_out, engine, pool_of
from doubles.virtual import turns
from sqlalchemy import event

from sqla_poolguard import Guard
from sqla_poolguard._private import LINE_2_1

pytestmark = pytest.mark.skipif(
    LINE_2_1, reason="opentelemetry-instrumentation-sqlalchemy refuses SQLAlchemy 2.1: it does nothing"
)

THEIRS = "db.client.connections.usage"
LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"
TESTS = Path(__file__).parents[1]


def known():
    """Tell whether theirs is the version whose errors are known."""
    return importlib.metadata.version("opentelemetry-instrumentation-sqlalchemy") == "0.66b1"


@pytest.fixture
def contrib(sdk):
    """Have theirs instrument engines, into the same SDK as ours."""
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor  # noqa: PLC0415 - there is none for SQLAlchemy 2.1

    instrumentor = SQLAlchemyInstrumentor()

    def instrument(*engines):
        instrumentor.instrument(
            engines=[db.sync_engine for db in engines], meter_provider=sdk.provider, tracer_provider=sdk.tracer_provider
        )

    yield instrument
    instrumentor.uninstrument()


def counted(sdk, metric="db.client.connection.count"):
    """Give what a metric says of connections, (idle, used) by pool."""
    found, by = {}, ("db.client.connection.state", "state")
    name = ("db.client.connection.pool.name", "pool.name")
    for point in sdk.readers[0].metrics()[metric].data.data_points:
        state, pool = (next(point.attributes[key] for key in keys if key in point.attributes) for keys in (by, name))
        found.setdefault(pool, {})[state] = point.value
    return {pool: (states.get("idle", 0), states.get("used", 0)) for pool, states in found.items()}


def compare(sdk, truth, theirs):
    """Compare with the truth, for an engine that is alone, as (idle, used); and with what theirs is known to say."""
    ((_, ours),) = counted(sdk).items()
    assert ours == truth
    if known():
        assert [*counted(sdk, THEIRS).values()] == [theirs]
        assert theirs != truth


def in_process(before, after=""):
    """
    Check a connection out and in, in a process of its own; give what each metric of connections says then, by its name.

    Args:
        before: lines to run first, where there is a `reader`.
        after: one to run when there is an engine, `db`.
    """
    program = f"""
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
{textwrap.dedent(before)}
import asyncio
from sqlalchemy.ext.asyncio import create_async_engine
from sqla_poolguard import GuardedPool
from doubles.driver import FakeDriver

async def main():
    db = create_async_engine("postgresql+asyncpg://h/db", creator=FakeDriver().open, poolclass=GuardedPool, _initialize=False)
    {after}
    async with db.connect():
        pass
    (resource,) = reader.get_metrics_data().resource_metrics
    for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
        if metric.name in ("{THEIRS}", "db.client.connection.count"):
            print(metric.name, *sorted(point.value for point in metric.data.data_points))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=TESTS,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_counted_twice():
    """Where `sqlalchemy.ext.asyncio` is imported late, they count every event twice."""
    said = in_process(
        """
        from opentelemetry import metrics
        from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
        from opentelemetry.sdk.metrics import MeterProvider
        metrics.set_meter_provider(MeterProvider([reader]))
        SQLAlchemyInstrumentor().instrument()
        """
    )
    assert said["db.client.connection.count"] == "0 1"
    if known():
        assert said[THEIRS] == "0 2"


async def test_detached(sdk, contrib):
    """What was detached is no connection of the pool's; they have it used for ever."""
    db = engine()
    contrib(db)
    async with all_out(db, 1) as (one,):
        raw = await one.get_raw_connection()
        raw.driver_connection.outside = True
        raw.detach()
    compare(sdk, truth=(0, 0), theirs=(0, 1))


@pytest.mark.filterwarnings(LEAK)
async def test_leaked(sdk, contrib):
    """What the garbage collector found is closed; they have it used for ever."""
    db = engine()
    contrib(db)
    for _ in range(3):
        leaked = await db.connect()
        del leaked
        gc.collect()
        await turns()
    compare(sdk, truth=(0, 0), theirs=(0, 3))


async def test_invalidated(sdk, contrib):
    """A connection that was invalidated, and made anew, is one: idle, and not in use by half."""
    db = engine()
    contrib(db)
    async with all_out(db, 1) as (one,):
        await one.invalidate()
        ((_, now),) = counted(sdk).items()
        assert now == (0, 0)
    async with all_out(db, 1):
        ((_, now),) = counted(sdk).items()
        assert now == (0, 1)
    ((_, now),) = counted(sdk).items()
    assert now == (1, 0)


async def test_merged(sdk, contrib):
    """Two engines with one URL are two pools; they tell of one."""
    first, second = engine(guard=Guard(name="merged")), engine(guard=Guard(name="merged"))
    contrib(first, second)
    async with all_out(first, 2), all_out(second, 1):
        assert counted(sdk) == {pool_of(first).name: (0, 2), pool_of(second).name: (0, 1)}
        assert pool_of(second).name == "merged#2"
        if known():
            assert [*counted(sdk, THEIRS).values()] == [(0, 3)]


async def test_listener_that_fails(sdk, contrib):
    """A checkout that a listener fails is none, and gives its connection back."""
    db = engine()

    @event.listens_for(db.sync_engine, "checkout")
    def fail(*_):
        raise ZeroDivisionError

    contrib(db)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await db.connect()
    ((_, ours),) = counted(sdk).items()
    assert ours == (sum(record.dbapi_connection is not None for record in pool_of(db)._slots.idle), 0)


async def test_other_name_both_are_told(sdk, contrib, caplog):
    """Theirs has another name than ours: nothing is told twice under one name. The log says once that there are two."""
    db = engine(guard=Guard(name="orders"))
    contrib(db)
    with caplog.at_level("INFO", "sqla_poolguard"):
        async with all_out(db, 1):
            assert counted(sdk) == {pool_of(db).name: (0, 1)}
            assert [*counted(sdk, THEIRS).values()] == [(0, 1)]
    (told,) = [record.getMessage() for record in caplog.records if "counts its connections too" in record.getMessage()]
    assert told.endswith(f"as {THEIRS}")


async def test_same_name_is_told_once(sdk, contrib, caplog, monkeypatch):
    """Should theirs come under the name of ours, ours is left out, for that engine alone, and all our other metrics stay."""
    from opentelemetry.semconv.metrics import MetricInstruments  # noqa: PLC0415 - as they do

    monkeypatch.setattr(MetricInstruments, "DB_CLIENT_CONNECTIONS_USAGE", "db.client.connection.count")
    db, other = engine(guard=Guard(name="theirs")), engine(guard=Guard(name="ours"))
    contrib(db)
    with caplog.at_level("INFO", "sqla_poolguard"):
        async with all_out(db, 1), all_out(other, 1):
            data = sdk.readers[0].get_metrics_data()
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    found = [
        (scope.scope.name.partition(".")[0], point.value)
        for scope in scopes
        for metric in scope.metrics
        for point in metric.data.data_points
        if metric.name == "db.client.connection.count" and "used" in point.attributes.values()
    ]
    assert sorted(found) == [("opentelemetry", 1), ("sqla_poolguard", 1)]
    assert sdk.values(pool_of(db).name)["pending_requests"] == 0
    assert any(record.getMessage().endswith("; ours are left out") for record in caplog.records)


async def test_they_may_come_and_go(sdk, contrib):
    """Theirs may be switched on and off while an engine works; a checkout goes on, and ours stays true."""
    db = engine(FakeDriver(), pool_size=2)
    async with all_out(db, 1):
        contrib(db)
        async with all_out(db, 1):
            assert counted(sdk) == {pool_of(db).name: (0, 2)}
    await asyncio.gather(*[asyncio.create_task(asyncio.sleep(0)) for _ in range(3)])
    assert counted(sdk) == {pool_of(db).name: (2, 0)}


def test_logfire_is_theirs():
    """What logfire does to an engine is what theirs does, under the same name, and ours goes to logfire too."""
    said = in_process(
        """
        import logfire
        from logfire import MetricsOptions
        logfire.configure(send_to_logfire=False, console=False, metrics=MetricsOptions(additional_readers=[reader]))
        """,
        "logfire.instrument_sqlalchemy(db)",
    )
    assert said["db.client.connection.count"] == "0 1"
    assert THEIRS in said
