"""Deadlocks over a pool: found, proved and broken at once; and what looks like one is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import time

import anyio
import pytest
from scenarios.stage import ONE, Stage
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sqla_poolguard import CheckoutTimeout, FindingKind, Guard, GuardedPool

pytestmark = pytest.mark.postgres

SHORT = text("SELECT pg_sleep(0.3)")


def small(stage, size, **options):
    """Make one more engine of the same kind, with so many connections."""
    guard = Guard(await_warning=None, hold_warning=None, observers=(stage.findings,), **options)
    return create_async_engine(stage.url, poolclass=GuardedPool, pool_size=size, max_overflow=0, pool_timeout=8, guard=guard)


async def ask(db):
    """Use a connection for a moment."""
    async with AsyncSession(db) as session:
        await session.execute(ONE)


async def two_at_once(first, second=None):
    """Hold a connection and want another."""
    async with AsyncSession(first) as session:
        await session.execute(ONE)
        await asyncio.sleep(0.05)
        await ask(second or first)


async def four_tasks(db):
    """Each of four tasks holds one of four connections and wants a second."""
    return await asyncio.gather(*(two_at_once(db) for _ in range(4)), return_exceptions=True)


async def gather_of_children(db):
    """The holder of the only connection gathers children that want one."""
    async with AsyncSession(db) as session:
        await session.execute(ONE)
        return await asyncio.gather(ask(db), ask(db), return_exceptions=True)


async def task_group(db):
    """Likewise in a task group."""
    async with AsyncSession(db) as session:
        await session.execute(ONE)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ask(db))
        except ExceptionGroup as several:
            return list(several.exceptions)


async def anyio_task_group(db):
    """Likewise in anyio's."""
    async with AsyncSession(db) as session:
        await session.execute(ONE)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ask, db)
        except ExceptionGroup as several:
            return list(several.exceptions)


async def awaited_task(db):
    """The holder awaits a task that wants a connection."""
    async with AsyncSession(db) as session:
        await session.execute(ONE)
        return await asyncio.gather(asyncio.create_task(ask(db)), return_exceptions=True)


async def shielded_task(db):
    """Likewise, shielded."""
    async with AsyncSession(db) as session:
        await session.execute(ONE)
        try:
            await asyncio.shield(ask(db))
        except CheckoutTimeout as error:
            return [error]


async def with_a_deadline_that_comes_later(db):
    """Every request has a timeout, as servers give it; the pool's would strike first."""

    async def work():
        async with asyncio.timeout(60):
            return await two_at_once(db)

    return await asyncio.gather(*(asyncio.wait_for(work(), 60) for _ in range(4)), return_exceptions=True)


DEADLOCKS = [
    (with_a_deadline_that_comes_later, 4),
    (four_tasks, 4),
    (gather_of_children, 1),
    (task_group, 1),
    (anyio_task_group, 1),
    (awaited_task, 1),
    (shielded_task, 1),
]


@pytest.mark.parametrize(("play", "size"), DEADLOCKS, ids=lambda part: getattr(part, "__name__", None))
async def test_deadlock_is_broken(play, size, postgres_url):
    """One waiter after the other is told so at once, with the proof, until the others can go on; nobody waits for the timeout."""
    async with Stage(postgres_url) as stage:
        db = small(stage, size)
        begun = time.monotonic()
        results = await play(db)
        assert time.monotonic() - begun < 4
        failed = [result for result in results if result is not None]
        assert failed
        for error in failed:
            assert isinstance(error, CheckoutTimeout)
            assert error.reason == "deadlock"
            assert str(error.verdict) == f"deadlock (all {size} holders wait for this very pool)"
            assert "one connection for one unit of work" in str(error)
        assert {finding.kind for finding in stage.findings.all} <= {FindingKind.DEADLOCK, FindingKind.NESTED}
        proof = next(finding for finding in stage.findings.all if finding.kind is FindingKind.DEADLOCK).details
        assert len(proof) == size
        assert all("test_deadlocks.py" in line and "awaits" in line for line in proof)
        pool = db.sync_engine.pool
        pool._ledger.check()
        assert pool.checkedout() == 0
        await db.dispose()


async def test_only_one_of_many_is_told(postgres_url):
    """Of four tasks that hold one connection each and want another, one gives way and three go on."""
    async with Stage(postgres_url) as stage:
        db = small(stage, 4)
        results = await four_tasks(db)
        assert sum(result is not None for result in results) == 1
        await db.dispose()


async def test_two_pools_crosswise(postgres_url):
    """Two tasks hold a connection of one pool each and want one of the other's."""
    async with Stage(postgres_url) as stage:
        first, second = small(stage, 1), small(stage, 1)
        results = await asyncio.gather(two_at_once(first, second), two_at_once(second, first), return_exceptions=True)
        assert [getattr(result, "reason", None) for result in results if result is not None] == ["deadlock"]
        await first.dispose()
        await second.dispose()


started = []


async def test_warn_only(postgres_url):
    """With `deadlock="warn"` it is reported, once, and everybody waits on."""
    async with Stage(postgres_url) as stage:
        db = small(stage, 1, deadlock="warn")
        started.append(asyncio.create_task(two_at_once(db)))  # where no frame shows it: nobody will cancel it
        await asyncio.sleep(0.8)
        task = started.pop()
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert [finding.kind for finding in stage.findings.all].count(FindingKind.DEADLOCK) == 1
        await db.dispose()


async def query_runs(stage, db):
    """One holder is in a query: it will come back."""

    async def slow():
        async with AsyncSession(db) as session:
            await session.execute(SHORT)

    return await asyncio.gather(slow(), two_at_once(db))


async def holder_sleeps(stage, db):
    """One holder sleeps: it will come back."""

    async def slow():
        async with AsyncSession(db) as session:
            await session.execute(ONE)
            await asyncio.sleep(0.4)

    return await asyncio.gather(slow(), two_at_once(db))


async def sibling_fails(stage, db):
    """A sibling in the task group will fail, and free the one that waits."""

    async def fail():
        await asyncio.sleep(0.4)
        raise ValueError

    holder = await db.connect()
    async with AsyncSession(db) as session:
        await session.execute(ONE)
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(ask(db))
                group.create_task(fail())
    await holder.close()


async def child_is_not_awaited(stage, db):
    """The holder does not wait for the child that wants a connection."""
    holder = await db.connect()
    async with AsyncSession(db) as session:
        await session.execute(ONE)
        task = asyncio.create_task(ask(db))
        await asyncio.sleep(0.4)
    await task
    await holder.close()


async def somebody_else_may_close_it(stage, db):
    """The holder waits for the pool, but its session is in another task's hands too."""
    holder = await db.connect()
    session, used = AsyncSession(db), asyncio.Event()

    async def use():
        await session.execute(ONE)
        used.set()
        await ask(db)

    async def close():
        await used.wait()
        await asyncio.sleep(0.4)
        await session.close()

    await asyncio.gather(use(), close())
    await holder.close()


async def lost_connection(stage, db):
    """A connection of which nothing is left but garbage comes back through the collector."""
    import gc  # noqa: PLC0415

    async def lose():
        circle = [await db.connect(), await db.connect()]
        circle.append(circle)
        del circle
        asyncio.get_running_loop().call_later(0.4, gc.collect)
        await ask(db)

    gc.disable()
    try:
        await lose()
    finally:
        gc.enable()


async def plain_contention(stage, db):
    """Twenty tasks share two connections."""

    async def work():
        for _ in range(3):
            async with AsyncSession(db) as session:
                await session.execute(text("SELECT pg_sleep(0.005)"))

    await asyncio.gather(*(work() for _ in range(20)))


async def children_with_a_deadline(stage, db):
    """Every holder gathers a child that wants a connection, but not for long."""

    async def work():
        async with AsyncSession(db) as session:
            await session.execute(ONE)
            await asyncio.sleep(0.05)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.4):
                    await asyncio.gather(ask(db))

    await asyncio.gather(work(), work())


async def somebody_will_cancel_it(stage, db):
    """A supervisor that has the task will cancel it."""
    holder = await db.connect()
    await holder.execute(ONE)

    async def supervise():
        task = asyncio.create_task(two_at_once(db))
        await asyncio.sleep(0.5)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def later():
        await asyncio.sleep(0.6)

    await asyncio.gather(supervise(), later())
    await holder.close()


async def watchdog_will_close_it(stage, db):
    """A watchdog has the connection as an attribute, and will close it."""

    class Watchdog:
        async def run(self):
            await asyncio.sleep(0.4)
            await self.connection.close()

    first, second, dog = await db.connect(), await db.connect(), Watchdog()
    await first.execute(ONE)
    dog.connection = second
    task = asyncio.create_task(dog.run())
    await ask(db)
    await task
    await first.close()


INNOCENT = [
    children_with_a_deadline,
    somebody_will_cancel_it,
    watchdog_will_close_it,
    query_runs,
    holder_sleeps,
    sibling_fails,
    child_is_not_awaited,
    somebody_else_may_close_it,
    lost_connection,
    plain_contention,
]


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("play", INNOCENT, ids=lambda play: play.__name__)
async def test_no_deadlock(play, postgres_url):
    """Whoever can still go on is waited for."""
    async with Stage(postgres_url) as stage:
        db = small(stage, 2)
        await play(stage, db)
        assert FindingKind.DEADLOCK not in {finding.kind for finding in stage.findings.all}
        assert db.sync_engine.pool._ledger.rejected["deadlock"] == 0
        await db.dispose()
