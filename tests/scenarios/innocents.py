"""Connections that are held for a good reason, or not at all: none of this may be reported."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import anyio
import sqlalchemy as sa
from scenarios.stage import LONG, ONE, PATIENCE, SLEEP, innocent
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_poolguard import allow_hold, release


@innocent()
async def long_query(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(SLEEP)


@innocent()
async def many_short_queries(stage):
    async with AsyncSession(stage.db) as session:
        for _ in range(150):
            await session.execute(ONE)


@innocent()
async def executemany(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(text("CREATE TEMP TABLE many (a int, b text)"))
        await session.execute(text("INSERT INTO many SELECT :a, pg_sleep(0.004)"), [{"a": number} for number in range(40)])


@innocent()
async def row_lock(stage):
    async with stage.other.begin() as other:
        await other.execute(text("CREATE TABLE IF NOT EXISTS locked (id int)"))
        await other.execute(text("DELETE FROM locked"))
        await other.execute(text("INSERT INTO locked VALUES (1)"))

    async def block():
        async with stage.other.begin() as other:
            await other.execute(text("UPDATE locked SET id = 1"))
            await other.execute(SLEEP)

    task = asyncio.create_task(block())
    await asyncio.sleep(0.03)
    async with AsyncSession(stage.db) as session, session.begin():
        await session.execute(text("UPDATE locked SET id = 1"))
    await task


@innocent()
async def advisory_lock(stage):
    async def block():
        async with stage.other.begin() as other:
            await other.execute(text("SELECT pg_advisory_xact_lock(4711)"))
            await other.execute(SLEEP)

    task = asyncio.create_task(block())
    await asyncio.sleep(0.03)
    async with AsyncSession(stage.db) as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(4711)"))
    await task


@innocent()
async def slow_commit(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(text("CREATE TEMP TABLE slow (id int)"))
        await session.execute(
            text(
                "CREATE FUNCTION pg_temp.wait() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN PERFORM pg_sleep({LONG}); RETURN NULL; END $$"
            )
        )
        await session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION pg_temp.wait()"
            )
        )
        await session.execute(text("INSERT INTO slow VALUES (1)"))
        await session.commit()


@innocent()
async def slow_close(stage):
    @sa.event.listens_for(stage.db.sync_engine.pool, "reset")
    def slow(connection, _record, _state):
        cursor = connection.cursor()
        cursor.execute(f"SELECT pg_sleep({LONG})")
        cursor.close()

    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)


@innocent()
async def savepoint(stage):
    async with AsyncSession(stage.db) as session, session.begin():
        async with session.begin_nested():
            await session.execute(SLEEP)
        await session.execute(ONE)


@innocent(pool_size=1)
async def wait_for_the_pool_with_nothing_in_hand(stage):
    async def work():
        async with AsyncSession(stage.db) as session:
            await session.execute(SLEEP)

    await asyncio.gather(work(), work())


@innocent(pool_size=1, pool_recycle=0)
async def connect_takes_long(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)


@innocent()
async def shielded_query(stage):
    async with AsyncSession(stage.db) as session:
        await asyncio.shield(session.execute(SLEEP))


@innocent()
async def query_with_a_timeout(stage):
    async with AsyncSession(stage.db) as session:
        await asyncio.wait_for(session.execute(SLEEP), 5)


@innocent()
async def query_under_asyncio_timeout(stage):
    async with AsyncSession(stage.db) as session:
        async with asyncio.timeout(5):
            await session.execute(SLEEP)


@innocent()
async def query_under_fail_after(stage):
    async with AsyncSession(stage.db) as session:
        with anyio.fail_after(5):
            await session.execute(SLEEP)


@innocent()
async def query_in_gather(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.gather(session.execute(SLEEP))


@innocent()
async def query_in_a_task_group(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with asyncio.TaskGroup() as group:
            group.create_task(session.execute(SLEEP))


@innocent()
async def query_in_an_anyio_task_group(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with anyio.create_task_group() as group:
            group.start_soon(session.execute, SLEEP)


@innocent()
async def query_waited_for(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.wait({asyncio.create_task(session.execute(SLEEP))})


@innocent()
async def query_three_tasks_deep(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)

        async def one():
            await asyncio.create_task(two())

        async def two():
            await asyncio.gather(three())

        async def three():
            await session.execute(SLEEP)

        await one()


@innocent()
async def gather_of_sessions(stage):
    async def work():
        async with AsyncSession(stage.db) as session:
            await session.execute(SLEEP)

    await asyncio.gather(work(), work(), work())


@innocent()
async def stream_read_at_once(stage):
    query = text("SELECT generate_series(1, 30000)")
    async with stage.db.connect() as connection, connection.stream(query, execution_options={"max_row_buffer": 200}) as rows:
        async for _ in rows:
            pass


@innocent()
async def stream_whose_rows_are_slow(stage):
    query = text("SELECT i, pg_sleep(0.01) FROM generate_series(1, 24) i")
    async with stage.db.connect() as connection, connection.stream(query, execution_options={"yield_per": 2}) as rows:
        async for _ in rows:
            pass


@innocent()
async def stream_whose_first_row_is_slow(stage):
    async with AsyncSession(stage.db) as session:
        async for _ in await session.stream_scalars(SLEEP):
            pass


@innocent()
async def run_sync(stage):
    def work(session):
        for _ in range(3):
            session.execute(text("SELECT pg_sleep(0.08)"))

    async with AsyncSession(stage.db) as session:
        await session.run_sync(work)


@innocent()
async def raw_query(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.fetch(f"SELECT pg_sleep({LONG})")


@innocent()
async def raw_query_in_run_sync(stage):
    def work(connection):
        connection.connection.dbapi_connection.run_async(lambda driver: driver.fetch(f"SELECT pg_sleep({LONG})"))

    async with stage.db.connect() as connection:
        await connection.run_sync(work)


@innocent()
async def raw_cursor_whose_rows_are_slow(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        async with driver.transaction():
            async for _ in driver.cursor("SELECT i, pg_sleep(0.01) FROM generate_series(1, 24) i", prefetch=2):
                pass


@innocent()
async def copy_out(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.copy_from_query("SELECT i, pg_sleep(0.01) FROM generate_series(1, 24) i", output=os.devnull)


@innocent()
async def copy_in_that_the_server_takes_slowly(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.execute("CREATE TEMP TABLE copied (id int)")
        await driver.execute(
            "CREATE FUNCTION pg_temp.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$"
        )
        await driver.execute("CREATE TRIGGER slow BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION pg_temp.wait()")
        await driver.copy_records_to_table("copied", records=[(number,) for number in range(24)])


@innocent()
async def prepared_statement(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        statement = await driver.prepare("SELECT pg_sleep($1)")
        await statement.fetch(LONG)


@innocent()
async def session_that_has_not_begun(stage):
    async with AsyncSession(stage.db) as session:
        await stage.http.get("/")
        await session.execute(ONE)


@innocent()
async def commit_before_the_call(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await session.commit()
        await stage.http.get("/")


@innocent()
async def release_before_the_call(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await release(session)
        await stage.http.get("/")
        await session.execute(ONE)


@innocent()
async def short_awaits_in_between(stage):
    async with AsyncSession(stage.db) as session:
        for _ in range(2):
            await session.execute(ONE)
            await asyncio.sleep(PATIENCE / 4)
            await session.execute(SLEEP)


@innocent()
async def declared_hold(stage):
    with allow_hold("the leader's lock"):
        async with stage.db.connect() as connection:
            await connection.execute(ONE)
            await asyncio.sleep(LONG)


@innocent()
async def declared_around_the_await_only(stage):
    async with stage.db.connect() as connection:
        await connection.execute(ONE)
        with allow_hold("LISTEN"):
            await asyncio.sleep(LONG)


@innocent()
async def declared_hold_in_a_child_task(stage):
    async def child():
        async with stage.db.connect() as connection:
            await connection.execute(ONE)
            await stage.http.get("/")

    with allow_hold("a child does it"):
        task = asyncio.create_task(child())
    await task


@innocent()
async def declared_by_an_option_of_the_connection(stage):
    async with stage.db.connect() as connection:
        await connection.execution_options(poolguard_hold="LISTEN")
        await connection.execute(ONE)
        await asyncio.sleep(LONG)


@innocent()
async def declared_by_an_option_of_the_engine(stage):
    async with stage.db.execution_options(poolguard_hold="leader").connect() as connection:
        await connection.execute(ONE)
        await asyncio.sleep(LONG)


@innocent()
async def declared_by_an_option_of_a_session(stage):
    async with AsyncSession(stage.db) as session:
        await session.connection(execution_options={"poolguard_hold": "server-side cursor"})
        await session.execute(ONE)
        await asyncio.sleep(LONG)


@innocent()
async def declared_on_a_connection_in_an_object(stage):
    class Listener:
        async def listen(self):
            self.connection = await stage.db.connect()
            await self.connection.execution_options(poolguard_hold="LISTEN")
            await self.wait()
            await self.connection.close()

        async def wait(self):
            await asyncio.sleep(LONG)

    await Listener().listen()


@innocent()
async def opened_at_startup_for_a_worker_that_may_hold(stage):
    class Worker:
        connection = None

        async def run(self):
            with allow_hold("leader"):
                for _ in range(2):
                    await self.connection.execute(ONE)
                    await asyncio.sleep(LONG)
                await self.connection.close()

    worker = Worker()

    async def start():
        worker.connection = await stage.db.connect()
        await worker.connection.execute(ONE)

    await asyncio.create_task(start())
    await asyncio.create_task(worker.run())


@innocent()
async def cancelled_query(stage):
    async def work():
        async with AsyncSession(stage.db) as session:
            await session.execute(text("SELECT pg_sleep(3)"))

    task = asyncio.create_task(work())
    await asyncio.sleep(LONG / 2)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@innocent()
async def query_that_times_out(stage):
    async with AsyncSession(stage.db) as session:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONG):
                await session.execute(text("SELECT pg_sleep(3)"))


@innocent()
async def error_and_rollback(stage):
    async with AsyncSession(stage.db) as session:
        with contextlib.suppress(sa.exc.DBAPIError):
            await session.execute(text("SELECT 1 / 0"))
        await session.rollback()
        await stage.http.get("/")


@innocent()
async def invalidated(stage):
    async with stage.db.connect() as connection:
        await connection.execute(ONE)
        await connection.invalidate()
        await asyncio.sleep(LONG)


@innocent()
async def detached(stage):
    connection = await stage.db.connect()
    raw = await connection.get_raw_connection()
    raw.detach()
    await asyncio.sleep(LONG)
    await connection.close()


@innocent()
async def generator_whose_rows_are_slow(stage):
    async def rows():
        async with AsyncSession(stage.db) as session:
            for _ in range(2):
                await session.execute(text("SELECT pg_sleep(0.1)"))
                yield 1

    async for _ in rows():
        pass


@innocent()
async def context_manager_that_queries(stage):
    @contextlib.asynccontextmanager
    async def unit_of_work():
        async with AsyncSession(stage.db) as session:
            await session.execute(SLEEP)
            yield session
            await session.execute(ONE)

    async with unit_of_work() as session:
        await session.execute(SLEEP)


@innocent()
async def awaitable_object_that_queries(stage):
    class Later:
        def __init__(self, coroutine):
            self.coroutine = coroutine

        def __await__(self):
            return self.coroutine.__await__()

    async with AsyncSession(stage.db) as session:
        await Later(session.execute(SLEEP))


@innocent()
async def another_task_blocks_the_loop(stage):
    async def hog():
        await asyncio.sleep(0.01)
        time.sleep(LONG)

    task = asyncio.create_task(hog())
    async with AsyncSession(stage.db) as session:
        for _ in range(60):
            await session.execute(ONE)
    await task


@innocent()
async def short_await_while_another_task_blocks_the_loop(stage):
    async def hog():
        time.sleep(LONG)

    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        task = asyncio.create_task(hog())
        await asyncio.sleep(0.001)
        await session.execute(ONE)
    await task


@innocent()
async def stopped_process(stage):
    """The whole process is stopped, as by SIGSTOP, a debugger or a paused machine, while it holds a connection for a moment."""
    # again and again: a single signal may come before the process is stopped, and then it is for ever
    waking = f"while not select.select([sys.stdin], [], [], {LONG * 2})[0]: os.kill({os.getpid()}, signal.SIGCONT)"
    waker = subprocess.Popen([sys.executable, "-c", f"import os, select, signal, sys\n{waking}"], stdin=subprocess.PIPE)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        sleep = asyncio.create_task(asyncio.sleep(0.02))
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGSTOP)
        await sleep
        await session.execute(ONE)
    waker.communicate()


@innocent()
async def computation_between_batches(stage):
    async with AsyncSession(stage.db) as session:
        for _ in range(12):
            await session.execute(text("SELECT pg_sleep(0.02)"))
            until = time.monotonic() + 0.01
            while time.monotonic() < until:
                sum(range(1000))


@innocent()
async def two_engines_one_after_the_other(stage):
    async with AsyncSession(stage.other) as session:
        await session.execute(SLEEP)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)


@innocent()
async def two_sessions_one_after_the_other(stage):
    for _ in range(3):
        async with AsyncSession(stage.db) as session:
            await session.execute(text("SELECT pg_sleep(0.08)"))


@innocent(driver="psycopg")
async def psycopg_long_query(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(SLEEP)


@innocent(driver="psycopg")
async def psycopg_many_short_queries(stage):
    async with AsyncSession(stage.db) as session:
        for _ in range(250):
            await session.execute(ONE)


@innocent(driver="psycopg")
async def psycopg_raw_queries(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        for _ in range(250):
            await driver.execute("SELECT 1")
        await driver.execute(f"SELECT pg_sleep({LONG})")


@innocent(driver="psycopg")
async def psycopg_server_side_cursor(stage):
    query = text("SELECT i, pg_sleep(0.01) FROM generate_series(1, 24) i")
    async with stage.db.connect() as connection, connection.stream(query, execution_options={"yield_per": 2}) as rows:
        async for _ in rows:
            pass


@innocent()
async def block_before_the_checkout(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
    time.sleep(LONG)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)


@innocent()
async def block_while_a_query_runs(stage):
    async with stage.db.connect() as connection:
        task = asyncio.create_task(connection.execute(text("SELECT pg_sleep(0.5)")))
        await asyncio.sleep(0.05)
        time.sleep(LONG)
        await task


@innocent()
async def declared_on_a_connection_that_is_hidden(stage):
    class Listener:
        __slots__ = ("connection",)

        async def listen(self):
            self.connection = await stage.db.connect()
            await self.connection.execution_options(poolguard_hold="LISTEN")
            await asyncio.sleep(LONG)
            await self.connection.close()

    await Listener().listen()


@innocent(driver="psycopg")
async def psycopg_copy_whose_rows_are_slow(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        query = "COPY (SELECT i, pg_sleep(0.01) FROM generate_series(1, 24) i) TO STDOUT"
        async with driver.cursor() as cursor, cursor.copy(query) as rows:
            async for _ in rows:
                pass
