"""Connections that are idle while their holder awaits something that is not the database."""

from __future__ import annotations

import asyncio
import contextlib
import time

import anyio
from scenarios.stage import BLOCKED, HELD, LONG, NESTED, ONE, PATIENCE, SLEEP, leak
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util.concurrency import await_only, greenlet_spawn

from sqla_poolguard import allow_hold


@leak()
async def http_call(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await stage.http.get("/")  # HERE
        await session.execute(ONE)


@leak()
async def http_call_in_a_begin_block(stage):
    async with AsyncSession(stage.db) as session, session.begin():
        await session.execute(ONE)
        await stage.http.get("/")  # HERE


@leak()
async def streamed_http_answer(stage):
    async with stage.db.connect() as connection:
        await connection.execute(ONE)
        async with stage.http.stream("GET", "/") as answer:  # HERE
            await answer.aread()


@leak()
async def sleep_with_autocommit(stage):
    async with stage.db.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(ONE)
        await asyncio.sleep(LONG)  # HERE


@leak()
async def connection_that_was_never_used(stage):
    async with stage.db.connect():
        await asyncio.sleep(LONG)  # HERE


@leak()
async def retry_with_backoff(stage):
    async with AsyncSession(stage.db) as session:
        for attempt in range(2):
            try:
                await session.execute(ONE)
                if attempt == 0:
                    raise ConnectionError
            except ConnectionError:
                await asyncio.sleep(LONG)  # HERE


@leak()
async def deep_in_other_functions(stage):
    async def outer(session):
        await inner(session)

    async def inner(session):
        await session.execute(ONE)
        await asyncio.sleep(LONG)  # HERE

    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(AsyncSession(stage.db))
        await outer(session)


class Shop:
    """A service that keeps its session as an attribute."""

    def __init__(self, session):
        self.session = session

    async def buy(self, stage):
        """Query, then call."""
        await self.session.execute(ONE)
        await stage.http.get("/")


@leak()
async def gather_of_http_calls(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.gather(stage.http.get("/"), stage.http.get("/"))  # HERE


@leak()
async def task_group_of_http_calls(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with asyncio.TaskGroup() as group:  # HERE
            group.create_task(stage.http.get("/"))


@leak()
async def anyio_task_group(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with anyio.create_task_group() as group:  # HERE
            group.start_soon(anyio.sleep, LONG)


@leak()
async def wait_for_tasks(stage):
    async def slow():
        await asyncio.sleep(LONG)

    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.wait({asyncio.create_task(slow())})  # HERE


@leak()
async def wait_for_with_a_timeout(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.wait_for(asyncio.sleep(LONG), 5)  # HERE


@leak()
async def shielded_call(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.shield(stage.http.get("/"))  # HERE


@leak()
async def timeout_around_a_call(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONG * 0.8):
                await stage.http.get("/")  # HERE


@leak()
async def anyio_move_on(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        with anyio.move_on_after(LONG):
            await anyio.sleep(5)  # HERE


@leak()
async def as_completed(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        for done in asyncio.as_completed([stage.http.get("/")]):
            await done  # HERE


@leak()
async def thread(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.to_thread(time.sleep, LONG)  # HERE


@leak()
async def anyio_thread(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await anyio.to_thread.run_sync(time.sleep, LONG)  # HERE


@leak()
async def executor(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, LONG)  # HERE


@leak()
async def lock(stage):
    lock = asyncio.Lock()
    await lock.acquire()
    asyncio.get_running_loop().call_later(LONG, lock.release)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with lock:  # HERE
            await session.execute(ONE)


@leak()
async def lock_in_a_savepoint(stage):
    lock = asyncio.Lock()
    await lock.acquire()
    asyncio.get_running_loop().call_later(LONG, lock.release)
    async with AsyncSession(stage.db) as session, session.begin(), session.begin_nested():
        await session.execute(ONE)
        await lock.acquire()  # HERE


@leak()
async def semaphore(stage):
    semaphore = asyncio.Semaphore(1)
    await semaphore.acquire()
    asyncio.get_running_loop().call_later(LONG, semaphore.release)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with semaphore:  # HERE
            pass


@leak()
async def queue(stage):
    queue = asyncio.Queue()
    asyncio.get_running_loop().call_later(LONG, queue.put_nowait, 1)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await queue.get()  # HERE


@leak()
async def full_queue(stage):
    queue = asyncio.Queue(1)
    queue.put_nowait(1)
    asyncio.get_running_loop().call_later(LONG, queue.get_nowait)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await queue.put(2)  # HERE


@leak()
async def event(stage):
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(LONG, event.set)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await event.wait()  # HERE


@leak()
async def condition(stage):
    condition = asyncio.Condition()

    async def notify():
        await asyncio.sleep(LONG)
        async with condition:
            condition.notify_all()

    task = asyncio.create_task(notify())
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with condition:
            await condition.wait()  # HERE
    await task


@leak()
async def anyio_stream(stage):
    sender, receiver = anyio.create_memory_object_stream(1)
    asyncio.get_running_loop().call_later(LONG, sender.send_nowait, 1)
    async with sender, receiver, AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await receiver.receive()  # HERE


@leak()
async def bare_future(stage):
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(LONG, future.set_result, None)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await future  # HERE


@leak()
async def socket(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.read(100)  # HERE
        writer.close()


@leak()
async def subprocess(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        process = await asyncio.create_subprocess_exec("sleep", str(LONG))
        await process.wait()  # HERE


@leak()
async def other_database(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with stage.other.connect() as other:
            await other.execute(SLEEP)  # HERE


@leak()
async def spinning(stage):
    until = time.monotonic() + LONG
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        while time.monotonic() < until:
            await asyncio.sleep(0)  # HERE


@leak()
async def many_short_awaits(stage):
    async with AsyncSession(stage.db) as session:
        for _ in range(15):
            await session.execute(ONE)
            await asyncio.sleep(PATIENCE / 2)  # HERE


@leak(driver="psycopg")
async def psycopg_notifies(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.execute("LISTEN here")
        async for _ in driver.notifies(timeout=LONG):  # HERE
            pass


@leak()
async def generator_that_is_stepped_by_a_task_for_each_row(stage):
    async def rows():
        async with AsyncSession(stage.db) as session:
            for _ in range(2):
                yield (await session.execute(ONE)).scalar()

    generator = rows()
    while True:
        try:
            await asyncio.ensure_future(anext(generator))
        except StopAsyncIteration:
            break
        await asyncio.sleep(LONG)  # HERE


@leak()
async def allow_hold_shared_by_tasks_is_over(stage):
    declared, both = allow_hold("a lock that is held by many"), asyncio.Event()

    async def first():
        with declared:
            await both.wait()
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            await asyncio.sleep(LONG)  # HERE

    async def second():
        await asyncio.sleep(0.01)
        with declared:
            both.set()
            await asyncio.sleep(LONG)

    await asyncio.gather(first(), second())


@leak()
async def exit_stack_that_closes_too_late(stage):
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(AsyncSession(stage.db))
        stack.push_async_callback(stage.http.get, "/")
        await session.execute(ONE)
        await stack.aclose()  # HERE


@leak()
async def await_only_in_run_sync(stage):
    def work(session):
        session.execute(ONE)
        await_only(asyncio.sleep(LONG))  # HERE

    async with AsyncSession(stage.db) as session:
        await session.run_sync(work)


@leak()
async def nested_greenlet(stage):
    def inner():
        await_only(asyncio.sleep(LONG))  # HERE

    async def middle():
        await greenlet_spawn(inner)

    def work(session):
        session.execute(ONE)
        await_only(middle())

    async with AsyncSession(stage.db) as session:
        await session.run_sync(work)


@leak()
async def slow_consumer_of_a_stream(stage):
    async with stage.db.connect() as connection, connection.stream(text("SELECT generate_series(1, 1000)")) as rows:
        async for row in rows:
            if row[0] > 20:
                break
            await asyncio.sleep(0.015)  # HERE


@leak()
async def slow_consumer_of_partitions(stage):
    async with stage.db.connect() as connection:
        rows = await connection.stream(text("SELECT generate_series(1, 20)"))
        async for _ in rows.partitions(10):
            await asyncio.sleep(LONG)  # HERE


@leak()
async def consumer_of_a_generator(stage):
    async def rows():
        async with AsyncSession(stage.db) as session:
            for number in (await session.execute(text("SELECT generate_series(1, 2)"))).scalars():
                yield number

    async for _ in rows():
        await asyncio.sleep(LONG)  # HERE


@leak()
async def inside_a_generator(stage):
    async def rows():
        async with AsyncSession(stage.db) as session:
            await session.execute(ONE)
            await stage.http.get("/")  # HERE
            yield 1

    async for _ in rows():
        pass


@leak()
async def context_manager_of_its_own(stage):
    @contextlib.asynccontextmanager
    async def unit_of_work():
        async with AsyncSession(stage.db) as session, session.begin():
            await session.execute(ONE)
            yield session

    async with unit_of_work():
        await stage.http.get("/")  # HERE


@leak()
async def awaitable_object(stage):
    class Later:
        def __await__(self):
            return asyncio.sleep(LONG).__await__()

    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await Later()  # HERE


@leak()
async def used_in_a_child_task(stage):
    async with AsyncSession(stage.db) as session:

        async def child():
            await session.execute(ONE)
            await asyncio.sleep(LONG)  # HERE
            await session.execute(ONE)

        await asyncio.create_task(child())


@leak()
async def used_in_a_task_group(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)

        async def child():
            await session.execute(ONE)
            await asyncio.sleep(LONG)  # HERE

        async with asyncio.TaskGroup() as group:
            group.create_task(child())


@leak()
async def used_by_another_task_while_its_own_sleeps(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        done = asyncio.Event()

        async def other():
            for _ in range(3):
                await session.execute(ONE)
            await asyncio.sleep(LONG)  # HERE
            done.set()

        task = asyncio.create_task(other())
        await task


@leak()
async def checked_out_by_a_helper_task(stage):
    async with AsyncSession(stage.db) as session:
        await asyncio.wait_for(session.execute(ONE), 5)
        await asyncio.sleep(LONG)  # HERE


@leak()
async def checked_out_under_gather(stage):
    async with AsyncSession(stage.db) as session:
        await asyncio.gather(session.execute(ONE))
        await asyncio.sleep(LONG)  # HERE


@leak()
async def checked_out_by_a_helper_of_an_object(stage):
    async with AsyncSession(stage.db) as session:
        shop = Shop(session)
        await asyncio.wait_for(shop.session.execute(ONE), 5)
        del session
        await asyncio.sleep(LONG)  # HERE


@leak()
async def handed_over_by_a_task_that_opened_it(stage):
    async def begin():
        session = AsyncSession(stage.db)
        await session.execute(ONE)
        return session

    session = await asyncio.create_task(begin())
    await asyncio.sleep(LONG)  # HERE
    await session.close()


@leak()
async def raw_driver(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.fetch("SELECT 1")
        await asyncio.sleep(LONG)  # HERE


@leak()
async def raw_cursor_with_a_slow_reader(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        async with driver.transaction():
            async for _ in driver.cursor("SELECT generate_series(1, 3)", prefetch=2):
                await asyncio.sleep(LONG)  # HERE


@leak()
async def slow_source_of_a_copy(stage):
    async def rows():
        yield (1,)
        await asyncio.sleep(LONG)  # HERE
        yield (2,)

    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.execute("CREATE TEMP TABLE copied (id int)")
        await driver.copy_records_to_table("copied", records=rows())


@leak()
async def undeclared_listener(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.add_listener("channel", print)
        await asyncio.sleep(LONG)  # HERE
        await driver.remove_listener("channel", print)


@leak(NESTED)
async def second_connection_waited_for(stage):
    others = [asyncio.create_task(_sleep_in_database(stage)) for _ in range(3)]
    await asyncio.sleep(0.03)
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with AsyncSession(stage.db) as second:
            await second.execute(ONE)  # HERE
    await asyncio.gather(*others)


@leak(NESTED)
async def second_connection_used(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        async with AsyncSession(stage.db) as second:
            await second.execute(SLEEP)  # HERE


@leak(NESTED, HELD)
async def second_connection_of_a_child(stage):
    async def child():
        async with AsyncSession(stage.db) as second:
            await second.execute(SLEEP)  # HERE

    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await asyncio.gather(child(), child())  # HERE


@leak(BLOCKED)
async def sleep_that_blocks_the_loop(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        time.sleep(LONG)  # HERE
        await session.execute(ONE)


@leak(BLOCKED)
async def sleep_that_blocks_the_loop_in_run_sync(stage):
    def work(session):
        session.execute(ONE)
        time.sleep(LONG)  # HERE
        session.execute(ONE)

    async with AsyncSession(stage.db) as session:
        await session.run_sync(work)


@leak(BLOCKED)
async def computation_after_a_query(stage):
    until = time.monotonic() + LONG
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        while time.monotonic() < until:
            sum(range(1000))  # HERE


async def _sleep_in_database(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(SLEEP)
        await session.execute(SLEEP)


@leak(driver="psycopg")
async def psycopg_http_call(stage):
    async with AsyncSession(stage.db) as session:
        await session.execute(ONE)
        await stage.http.get("/")  # HERE


@leak(driver="psycopg")
async def psycopg_raw_driver(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.execute("SELECT 1")
        await asyncio.sleep(LONG)  # HERE


@leak(driver="psycopg")
async def psycopg_partitions(stage):
    async with stage.db.connect() as connection:
        rows = await connection.stream(text("SELECT generate_series(1, 20)"))
        async for _ in rows.partitions(10):
            await asyncio.sleep(LONG)  # HERE


@leak(driver="psycopg")
async def psycopg_slow_source_of_a_copy(stage):
    async with stage.db.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.execute("CREATE TEMP TABLE copied (id int)")
        async with driver.cursor() as cursor, cursor.copy("COPY copied FROM STDIN") as rows:
            await rows.write(b"1\n")
            await asyncio.sleep(LONG)  # HERE
            await rows.write(b"2\n")


@leak()
async def declared_only_before(stage):
    async with stage.db.connect() as connection:
        with allow_hold("for a moment"):
            await asyncio.sleep(LONG)
        await connection.execute(ONE)
        await asyncio.sleep(LONG)  # HERE


@leak()
async def beside_a_variable_that_answers_nothing(stage):
    class Proxy:
        def __getattribute__(self, name):
            raise RuntimeError

    class TaskGroup:
        _tasks = 3

    async with stage.db.connect() as connection:
        proxy, group = Proxy(), TaskGroup()
        await connection.execute(ONE)
        await asyncio.sleep(LONG)  # HERE
        del proxy, group
