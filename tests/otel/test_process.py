"""What needs a process of its own: the global providers, which can be set once, and fork."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

TESTS = pathlib.Path(__file__).parents[1]

PRELUDE = """
import asyncio, os, sys
from doubles.driver import FakeDriver
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.ext.asyncio import create_async_engine
from sqla_poolguard import GuardedPool, Guard

reader, spans = InMemoryMetricReader(), InMemorySpanExporter()

def engine(pool_size=5, max_overflow=10, **options):
    options = {"creator": FakeDriver(**options).open, "guard": Guard(name="main"), "pool_size": pool_size, "max_overflow": max_overflow}
    return create_async_engine("postgresql+asyncpg://h/db", poolclass=GuardedPool, _initialize=False, **options)

async def checkouts(db, count):
    for _ in range(count):
        async with db.connect():
            pass

def configure():
    metrics.set_meter_provider(MeterProvider([reader]))
    trace.set_tracer_provider(provider := TracerProvider())
    provider.add_span_processor(SimpleSpanProcessor(spans))

def leases():
    data = reader.get_metrics_data()
    for scope in data.resource_metrics[0].scope_metrics if data else ():
        for metric in scope.metrics:
            if metric.name == "db.client.connection.use_time":
                return metric.data.data_points[0].count, scope.scope.name, scope.scope.schema_url
    return 0, None, None
"""


def run(program):
    """Run a program on the doubles; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore::DeprecationWarning", "-c", PRELUDE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("when", ["before the engine", "after it", "after the first checkouts"])
def test_providers_may_be_set_at_any_time(when):
    """The application's providers are used, whenever it sets them."""
    lines = run(f"""
    from doubles.driver import Gate
    async def main():
        when = {when!r}

        async def hold(db):
            with trace.get_tracer("application").start_as_current_span("hold"):
                async with db.connect():
                    await asyncio.sleep(0.06)

        if when == "before the engine":
            configure()
        db = engine(pool_size=1, max_overflow=0, connect=Gate.SLOW)
        if when == "after it":
            configure()
        await checkouts(db, 3)
        await asyncio.gather(checkouts(db, 1), checkouts(db, 1))
        if when == "after the first checkouts":
            configure()
        await db.dispose()
        with trace.get_tracer("application").start_as_current_span("request"):
            await checkouts(db, 2)
        print(*leases(), [span.name for span in spans.get_finished_spans()])
        spans.clear()
        await asyncio.gather(hold(db), hold(db))
        (acquired,) = [span for span in spans.get_finished_spans() if span.name == "pool.acquire main"]
        (held,) = [span for span in spans.get_finished_spans() if span.links and span is not acquired]
        print(acquired.links[0].context.span_id == held.context.span_id, [event.name for event in held.events])
    asyncio.run(main())
    """)
    assert lines == [
        "7 sqla_poolguard https://opentelemetry.io/schemas/1.44.0 ['pool.acquire main', 'request']",
        "True ['poolguard.blocked_waiter']",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("collected", [False, True])
def test_child_does_not_report_what_its_parent_does(collected):
    """Samples that wait at a fork are the parent's to report, even of an engine that is gone; the child reports its own."""
    lines = run(f"""
    import gc
    configure()
    db = engine()
    asyncio.run(checkouts(db, 3))
    asyncio.run(db.dispose())
    if {collected}:
        del db
        gc.collect()
        db = engine()
    if child := os.fork():
        os.waitpid(child, 0)
        print("parent", leases()[0], flush=True)
    else:
        print("child", leases()[0], flush=True)
        asyncio.run(checkouts(db, 2))
        print("child", leases()[0], flush=True)
        os._exit(0)
    """)
    assert lines == ["child 0", "child 2", "parent 3"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_child_does_not_count_again_what_collected_engines_had():
    """The totals of an engine that is gone are the parent's too, whether they were told before the fork or not."""
    lines = run("""
    import gc
    from sqla_poolguard._facts import Reason
    from sqla_poolguard._finding import LeakKind
    configure()

    def come_and_go(count):
        counted = engine().pool._ledger.totals
        counted.rejected[Reason.TIMEOUT] = counted.leaks[LeakKind.GARBAGE_COLLECTED] = counted.would_reject = count
        counted.foreign_await = float(count)
        gc.collect()

    def totals():
        names = ("timeouts", "rejections", "leaks", "would_reject", "foreign_await_time")
        found = dict.fromkeys(names, 0)
        for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
            name = metric.name.rpartition(".")[2]
            if name in names:
                found[name] += sum(point.value for point in metric.data.data_points)
        return [int(found[name]) for name in names]

    come_and_go(2)
    totals()
    come_and_go(3)
    if child := os.fork():
        os.waitpid(child, 0)
        print("parent", totals(), flush=True)
    else:
        print("child", totals(), flush=True)
        os._exit(0)
    """)
    assert lines == ["child [2, 2, 2, 2, 2]", "parent [5, 5, 5, 5, 5]"], "what the SDK itself has it keeps in a child"


def test_many_engines_make_one_set_of_instruments():
    """However many engines there are, instruments are made once, and the SDK has nothing to warn of."""
    lines = run("""
    configure()
    engines = [engine() for _ in range(20)]
    async def main():
        for db in engines:
            await checkouts(db, 1)
            await db.dispose()
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
        names = {metric.name.removeprefix("db.client.connection.").removeprefix("poolguard.") for metric in scope.metrics}
        print(sorted(names))
        print(len({p.attributes["db.client.connection.pool.name"] for m in scope.metrics for p in m.data.data_points}))
    asyncio.run(main())
    """)
    assert lines == [
        "['breaker.state', 'count', 'create_time', 'idle.max', 'idle.min', 'leaks', 'max', 'pending_requests', 'rejections', 'spans_suppressed', 'timeouts', 'use_time', 'wait_time', 'would_reject']",
        "20",
    ]


@pytest.mark.parametrize("first", ["the engine's", "the process's"])
def test_a_provider_that_is_given_and_set(first):
    """One that an engine was given, and that is set for the process before or after another engine is made, hears of all of them."""
    lines = run(f"""
    def named(name, **options):
        guard = Guard(name=name, **options)
        return create_async_engine("postgresql+asyncpg://h/db", poolclass=GuardedPool, _initialize=False, creator=FakeDriver().open, guard=guard)

    async def main():
        provider = MeterProvider([reader])
        dbs = [named("a", meter_provider=provider)] if {first!r} == "the engine's" else []
        dbs.append(named("b"))
        metrics.set_meter_provider(provider)
        dbs += [named("c"), named("d", meter_provider=provider)]
        for db in dbs:
            await checkouts(db, 2)
        found = {{}}
        for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                if metric.name in ("db.client.connection.use_time", "db.client.connection.max"):
                    for point in metric.data.data_points:
                        value = getattr(point, "count", None) or point.value
                        found.setdefault(point.attributes["db.client.connection.pool.name"], []).append(value)
        print(sorted((name, sorted(values)) for name, values in found.items()))
    asyncio.run(main())
    """)
    names = ["a", "b", "c", "d"] if first == "the engine's" else ["b", "c", "d"]
    assert lines == [str([(name, [2, 15]) for name in names])]
