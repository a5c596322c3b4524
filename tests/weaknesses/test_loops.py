"""One engine in more than one event loop: waiters wait in their own, and a connection never leaves the one it was opened in."""

from __future__ import annotations

import asyncio
import threading

import pytest
from doubles.driver import FakeDriver
from doubles.pools import engine, pool_of
from doubles.virtual import VirtualLoop
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine
from weaknesses.rivals import backend, backend_of, both, connected, outcome

from sqla_poolguard import GuardedPool

COUNT = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :application_name")


def run(coroutine, loop_factory=VirtualLoop):
    """Run in a new loop, which is closed afterwards."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(coroutine)


def in_two_threads(coroutine_function):
    """Run a coroutine function in two threads, each with its own loop; give what it raised there, being too slow included."""
    raised = []

    async def bounded():
        async with asyncio.timeout(5):
            await coroutine_function()

    def work():
        try:
            run(bounded(), asyncio.new_event_loop)
        except BaseException as error:  # noqa: BLE001 - it is asserted that there was none
            raised.append(repr(error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return raised + ["it hangs" for thread in threads if thread.is_alive()]


@both("K: the queue is bound to the first loop in which somebody waited", RuntimeError)
def test_waiting_in_a_second_loop(pool):
    """K: an engine that was waited for under one `asyncio.run` can be waited for under the next."""
    driver = FakeDriver()
    db = engine(driver, pool=pool, pool_size=1, max_overflow=0)

    async def hold():
        async with db.connect():
            await asyncio.sleep(0.01)

    async def crowd():
        await asyncio.gather(*(hold() for _ in range(3)))

    for _ in range(3):
        run(crowd())
        assert (pool_of(db).checkedin(), driver.open_now) == (1, 1)


@both("K: of the tasks of two loops in two threads, most die", timed=False)
def test_two_loops_in_two_threads(pool):
    """K: two threads, each with its own loop, share two connections: everybody is served, and nothing is lost."""
    db = engine(pool=pool, pool_size=2, max_overflow=0, pool_timeout=5)
    failed, served = [], []

    async def work():
        try:
            for _ in range(10):
                async with db.connect():
                    await asyncio.sleep(0.001)
                served.append(1)
        except Exception as error:  # noqa: BLE001 - likewise
            failed.append(error)

    async def crowd():
        await asyncio.gather(*(work() for _ in range(10)))

    assert in_two_threads(crowd) == []
    assert (failed, len(served)) == ([], 200)
    assert pool_of(db).checkedin() == 2


@pytest.mark.postgres
@both("K: an asyncpg connection is handed out in a loop that it does not belong to", timed=False)
def test_connection_of_a_closed_loop_is_replaced(pool, postgres_url):
    """K: a real connection that was opened under another `asyncio.run` is discarded, and another opened."""

    def work():
        db = create_async_engine(postgres_url, poolclass=pool, pool_size=1, max_overflow=0)
        pids = [run(backend_of(db), asyncio.new_event_loop) for _ in range(3)]
        figures = pool_of(db).checkedin(), pool_of(db).checkedout()
        run(db.dispose(close=False), asyncio.new_event_loop)
        return len(set(pids)), figures

    assert outcome(work) == (3, (1, 0))


@pytest.mark.postgres
def test_connections_of_closed_loops_leave_the_server(postgres_url):
    """K: what was opened in loops that are closed does not pile up on the server, and `dispose()` closes the last."""
    server_settings = {"application_name": "closed loops"}

    def work():
        db = create_async_engine(postgres_url, poolclass=GuardedPool, connect_args={"server_settings": server_settings})
        for _ in range(5):
            run(backend_of(db), asyncio.new_event_loop)
        run(db.dispose(), asyncio.new_event_loop)

    async def left():
        async with connected(postgres_url, NullPool) as admin, admin.connect() as connection:
            for _ in range(100):
                if not (count := (await connection.execute(COUNT, server_settings)).scalar_one()):
                    break
                await connection.rollback()  # the view is frozen in a transaction
                await asyncio.sleep(0.02)
            return count

    assert outcome(work) is None
    assert run(left(), asyncio.new_event_loop) == 0


@pytest.mark.postgres
@both("K: real connections are handed from loop to loop, and break", timed=False)
def test_two_loops_share_a_real_pool(pool, postgres_url):
    """K: two loops in two threads take turns at two real connections, and each gets only such as work there."""
    failed, served = [], []

    async def work(db):
        try:
            for _ in range(5):
                async with db.connect() as connection:
                    await backend(connection)
                served.append(1)
        except Exception as error:  # noqa: BLE001 - likewise
            failed.append(f"{type(error).__name__}: {error}")

    def both_loops():
        db = create_async_engine(postgres_url, poolclass=pool, pool_size=2, max_overflow=0, pool_timeout=2)

        async def crowd():
            await asyncio.gather(*(work(db) for _ in range(4)))

        raised = in_two_threads(crowd)
        run(db.dispose(close=False), asyncio.new_event_loop)
        return raised

    assert outcome(both_loops) == []
    assert (failed, len(served)) == ([], 40)
