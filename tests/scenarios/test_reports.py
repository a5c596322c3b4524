"""What is said: the log line, the event, the error of an exhausted pool; once, then counted, and again when it came back."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
import weakref
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from scenarios.stage import HELD, LEAKED, LONG, ONE, PATIENCE, SLEEP, Stage
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sqla_poolguard import (
    CheckoutTimeout,
    FindingKind,
    Guard,
    GuardedPool,
    HolderState,
    Observer,
    _holds,
    allow_hold,
    snapshot,
)
from sqla_poolguard._facts import shorten
from sqla_poolguard._ticker import ticker

pytestmark = pytest.mark.postgres

HERE = shorten(__file__)


@pytest.fixture(autouse=True)
def undeclared():
    """Begin without declarations."""
    _holds.forget()


async def hold(stage, seconds=LONG):
    """Hold a connection while awaiting something else."""
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)  # checkout
        await asyncio.sleep(seconds)  # await


def line(mark):
    """Find the line of `hold` that ends in a mark."""
    with open(__file__) as source:
        return next(number for number, row in enumerate(source, 1) if row.rstrip().endswith(mark))


def said(caplog, start):
    """Give what our log said that begins so, after the name of the pool."""
    messages = [record.getMessage().partition(": ")[2] for record in caplog.records if record.name == "sqla_poolguard"]
    return [message for message in messages if message.startswith(start)]


async def test_log(postgres_url, caplog):
    """One line names the line that awaits, what it awaits, and where the connection was checked out; it is said once, and once more at the return."""
    async with Stage(postgres_url) as stage:
        for _ in range(3):
            await hold(stage)
        (message,) = said(caplog, "connection held")
        assert message.startswith(
            f"connection held across an await: the line at {HERE}:{line('# await')} in hold awaits asyncio sleep (idle in transaction); held for 0."
        )
        assert f"checked out at {HERE}:{line('# checkout')} in hold, task " in message
        (returned,) = said(caplog, "connection came back")
        assert "s awaiting something else" in returned
        assert len(stage.findings.all) == 1
        (finding,) = snapshot(stage.db).findings
        assert (finding.kind, finding.count) == (HELD, 3)
        assert "SELECT" not in caplog.text


async def test_waste(postgres_url):
    """Every second that a connection is idle in somebody's hands is counted to the line that awaits."""
    async with Stage(postgres_url) as stage:
        for _ in range(3):
            await hold(stage)
        (waste,) = snapshot(stage.db).waste
        assert (waste.site.line, waste.awaiting) == (line("# await"), "asyncio sleep")
        assert LONG * 3 * 0.5 < waste.seconds < LONG * 3 * 1.5


async def test_times_add_up(postgres_url):
    """Held is the sum of what was spent in the database, awaiting something else, and the rest."""
    async with Stage(postgres_url) as stage:
        async with AsyncSession(stage.db) as session:
            await session.execute(SLEEP)
            await asyncio.sleep(LONG)
        (finding,) = stage.findings.all
        assert LONG * 0.6 < finding.in_database < LONG * 1.5
        assert finding.held == pytest.approx(finding.in_database + finding.elsewhere + finding.cpu)


async def test_trace(postgres_url):
    """A finding knows the trace in which its holder runs."""
    tracer = TracerProvider().get_tracer("test")
    async with Stage(postgres_url) as stage:
        with tracer.start_as_current_span("request") as span:
            await hold(stage)
        (finding,) = stage.findings.all
        assert finding.trace_id == trace.format_trace_id(span.get_span_context().trace_id)


async def exhaust(stage, *coroutines):
    """Let some tasks hold every connection, and give the error of whoever asks then."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    await asyncio.sleep(PATIENCE * 2)
    try:
        with pytest.raises(CheckoutTimeout) as caught:
            await stage.db.connect()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return caught.value


async def test_verdict_held_across_await(postgres_url):
    """The error says what most holders await, where, and what helps."""
    async with Stage(postgres_url, pool_size=3, pool_timeout=1.0) as stage:

        async def work():
            async with AsyncSession(stage.db) as session:
                await session.execute(text("SELECT pg_sleep(2)"))

        error = await exhaust(stage, hold(stage, 5), hold(stage, 5), work())
        assert str(error.verdict) == "held_across_await (2 of 3 holders await something else)"
        row = next(row for row in str(error).splitlines() if row.lstrip().startswith("2 x"))
        assert f"{HERE}:{line('# checkout')} in hold" in row
        assert f"awaiting asyncio sleep at {HERE}:{line('# await')} in hold" in row
        assert "(database 0.0 s)" in row
        assert "  1. end the transaction before the await" in str(error)
        assert {holder.state for holder in error.snapshot.holders} == {HolderState.AWAITING, HolderState.IN_DATABASE}


async def test_verdict_slow_database(postgres_url):
    """Holders that have been in the database for long are no leak."""
    async with Stage(postgres_url, pool_size=2, pool_timeout=1.9) as stage:

        async def work():
            async with AsyncSession(stage.db) as session:
                await session.execute(text("SELECT pg_sleep(6)"))

        error = await exhaust(stage, work(), work())
        assert re.match(r"slow_database \(2 of 2 holders wait for the database, up to [12]\.\d s\)", str(error.verdict))
        assert "more connections make it slower" in str(error)
        assert stage.findings.all == []


async def test_verdict_undersized(postgres_url):
    """Many short holds by many tasks are too few connections."""
    async with Stage(postgres_url, pool_size=1, pool_timeout=0.6) as stage:

        async def work():
            async with AsyncSession(stage.db) as session:
                await session.execute(text("SELECT pg_sleep(2)"))

        error = await exhaust(stage, work(), work())
        assert str(error.verdict).startswith("undersized (1 of 1 holders are in the database; held for 0.")


async def test_verdict_of_a_holder_that_asks_again(postgres_url):
    """Who is refused a second connection while holding one is seen as such."""
    async with Stage(postgres_url, pool_size=1, pool_timeout=1.0, guard={"deadlock": "warn"}) as stage:
        async with stage.db.connect() as connection:
            await connection.execute(ONE)
            with pytest.raises(CheckoutTimeout) as caught:
                await stage.db.connect()
        assert str(caught.value.verdict) == "deadlock (all 1 holders wait for this very pool)"


async def test_looking_leaves_locals_alone(postgres_url):
    """A dictionary that a function got from `locals()` is the function's own."""
    async with Stage(postgres_url) as stage:

        async def handle(user_id):
            async with AsyncSession(stage.db) as session:
                await session.execute(ONE)
                mine = locals()
                await asyncio.sleep(LONG)
                return mine

        seen = await asyncio.create_task(handle(42))
        assert seen["user_id"] == 42
        assert len(stage.findings.all) == 1


async def test_verdict_orphaned(postgres_url):
    """Holders whose tasks have finished are named as such."""
    async with Stage(postgres_url, pool_size=1, pool_timeout=1.0) as stage:
        kept = []

        async def job():
            kept.append(await stage.db.connect())

        await asyncio.create_task(job())
        error = await exhaust(stage, asyncio.sleep(5))
        assert str(error.verdict) == "orphaned (the tasks of 1 of 1 holders have finished)"
        await kept.pop().close()


async def test_declared_hold_is_listed(postgres_url):
    """A declared hold is listed with its reason, and shown as such by the error of an exhausted pool."""
    async with Stage(postgres_url, pool_size=1, pool_timeout=1.0) as stage:

        async def listen():
            with allow_hold("LISTEN for orders"):
                await hold(stage, 5)

        error = await exhaust(stage, listen())
        assert "declared: LISTEN for orders" in str(error)
        (declaration,) = [each for each in snapshot(stage.db).declared if each.reason == "LISTEN for orders"]
        assert (declaration.entered, declaration.matched, declaration.stale) == (1, 1, False)
        assert stage.findings.all == []


def test_stale_declaration(caplog):
    """A declaration that never excused a hold is reported once, when it has been given more than a hundred times."""
    for _ in range(250):
        with allow_hold("nobody holds here"):
            pass
    assert [record.getMessage() for record in caplog.records] == [
        "allow_hold('nobody holds here') was entered 100 times and never excused a hold: it may go"
    ]
    (declaration,) = [each for each in _holds.declarations() if each.reason == "nobody holds here"]
    assert declaration.stale


@pytest.mark.parametrize("reason", ["", "  ", None, 5])
def test_declaration_needs_a_reason(reason):
    """A declaration without a reason is an error."""
    with pytest.raises(ValueError, match=r"allow_hold\(.*\) is not allowed; allowed: a non-empty text"), allow_hold(reason):
        pass


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
async def test_leaks_are_findings_too(postgres_url):
    """Observers hear of a leak through `found`, with what is known of it."""
    heard = []

    class Heard(Observer):
        def found(self, finding):
            heard.append(finding)

    async with Stage(postgres_url, guard={}) as stage:
        db = create_async_engine(postgres_url, poolclass=GuardedPool, guard=Guard(await_warning=PATIENCE, observers=(Heard(),)))

        async def lose():
            connection = await db.connect()
            await connection.execute(ONE)

        await lose()
        gc.collect()
        await asyncio.sleep(0.05)
        assert [(finding.kind, finding.site.function) for finding in heard] == [
            (LEAKED, "test_leaks_are_findings_too.<locals>.lose")
        ]
        await db.dispose()
        assert stage.findings.all == []


async def test_overdue_has_its_figures(postgres_url):
    """An overdue hold says for how long the connection has been idle."""
    async with Stage(postgres_url) as stage:
        db = create_async_engine(postgres_url, poolclass=GuardedPool, guard=Guard(hold_warning=0.3, await_warning=0.1))
        task = asyncio.create_task(hold(SimpleNamespace(db=db), 0.6))
        await task
        (overdue,) = [finding for finding in snapshot(db).findings if finding.kind is FindingKind.OVERDUE]
        assert 0.1 < overdue.idle <= overdue.held
        await db.dispose()
        assert stage.findings.all == []


async def test_waste_counts_orphans_and_not_what_is_declared(postgres_url):
    """A declared hold wastes nothing; a connection whose task has finished does, at the line that checked it out."""
    async with Stage(postgres_url) as stage:
        kept = []

        async def job():
            kept.append(await stage.db.connect())

        with allow_hold("not wasted"):
            await hold(stage, LONG)
        assert snapshot(stage.db).waste == ()
        await asyncio.create_task(job())
        await asyncio.sleep(LONG)
        (waste,) = snapshot(stage.db).waste
        assert waste.site.function.endswith("job")
        await kept.pop().close()


@pytest.mark.parametrize("anew", [False, True])
async def test_verdict_of_a_loop_that_is_late(anew, postgres_url):
    """A connect that takes too long because the loop has too much to do is not the database's fault."""
    async with Stage(postgres_url) as stage:
        db = create_async_engine(postgres_url, poolclass=GuardedPool, pool_timeout=1)
        if anew:
            await (await db.connect()).close()
            db.sync_engine.pool._invalidate_time = time.time()
        until = time.monotonic() + 2.5

        async def toil():
            while time.monotonic() < until:
                end = time.perf_counter() + 0.05
                while time.perf_counter() < end:
                    pass
                await asyncio.sleep(0)

        toilers = [asyncio.create_task(toil()) for _ in range(4)]
        with pytest.raises(CheckoutTimeout) as caught:
            await db.connect()
        await asyncio.gather(*toilers)
        assert str(caught.value.verdict).startswith("loop_blocked (the event loop was late for ")
        await db.dispose()
        assert stage.findings.all == []


@pytest.mark.parametrize("shown", [False, True])
async def test_slow_statement(shown, postgres_url, caplog):
    """A slow statement is one line in the log: where, how long, and its text only if that was asked for; never its parameters."""
    async with Stage(postgres_url, guard={"slow_statement": 0.2, "statement_text": shown}) as stage:
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            await session.execute(text("SELECT pg_sleep(:s), 'secret'"), {"s": 0.25})  # slow
        await stage.db.dispose()
        async with stage.db.connect() as connection:
            await connection.execute(ONE)
        (message,) = said(caplog, "statement took")
        assert message.startswith("statement took 0.")
        assert f"at {HERE}:{line('# slow')} in test_slow_statement, task " in message
        assert ("secret" in message) == shown


async def test_nothing_is_kept_alive(postgres_url):
    """Neither a task, nor a frame's variable, nor a connection outlives its lease because somebody looked at it."""

    class Marker:
        pass

    async with Stage(postgres_url) as stage:
        seen = []

        async def job():
            marker = Marker()
            async with AsyncSession(stage.db) as session:
                await session.execute(ONE)
                connection = (await session.connection()).sync_connection
                seen.extend(
                    (weakref.ref(marker), weakref.ref(session), weakref.ref(connection), weakref.ref(asyncio.current_task()))
                )
                del connection
                await asyncio.sleep(LONG)
                del marker
                gc.collect()
                assert seen[0]() is None, "a variable that is gone"
                await asyncio.sleep(LONG)
                snapshot(stage.db)

        await asyncio.create_task(job())
        for _ in range(20):  # a look may have been under way
            await asyncio.sleep(0.05)
            gc.collect()
            if not any(ref() for ref in seen):
                break
        assert [ref() for ref in seen] == [None] * 4
        assert len(stage.findings.all) >= 1


async def test_ticker_rests(postgres_url):
    """A second after the last connection came back nobody looks any more; the next checkout wakes it again."""
    async with Stage(postgres_url) as stage:
        loop = asyncio.get_running_loop()
        await hold(stage, 0.02)
        assert ticker.beat_of(loop) is not None
        async with asyncio.timeout(5):
            while ticker.beat_of(loop) is not None:
                await asyncio.sleep(0.05)
        await hold(stage)
        assert [finding.kind for finding in stage.findings.all] == [HELD]


@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "in_a_task_group"])
async def test_looking_is_cheap(postgres_url, grouped):
    """
    To look at a lease that is idle, and whose holder has not moved, takes few calls, however deep in other functions it waits.

    With fewer than 90 for each of twenty leases, ten looks a second take less than half a percent of a core, as was measured once:
    see docs/design/0006. Likewise in the task group of a middleware, which has another task to be looked at.
    """
    async with Stage(postgres_url, pool_size=20) as stage:

        async def deep(levels):
            if levels:
                await deep(levels - 1)
            elif grouped:
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(30))
                    await hold(stage, 30)
            else:
                await hold(stage, 30)

        tasks = [asyncio.create_task(deep(20)) for _ in range(20)]
        async with asyncio.timeout(20):
            while snapshot(stage.db).used < 20:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        sampler, beat = stage.db.sync_engine.pool._watch.sampler, ticker.beat_of(asyncio.get_running_loop())
        calls = 0

        def count(_frame, event, _argument):
            nonlocal calls
            calls += event in {"call", "c_call"}

        sampler.sample(beat, None)
        sys.setprofile(count)
        try:
            sampler.sample(beat, None)
        finally:
            sys.setprofile(None)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert calls / 20 < 90
