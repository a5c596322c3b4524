"""A forked child never uses, nor closes, a connection of its parent. The server tells by its backends' process ids."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time

import pytest
from doubles.pools import pool_of
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from weaknesses.rivals import backend, backend_of, both, outcome

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
]

PATIENCE = 10.0


def in_child(work):
    """Fork, and give what `work` returns in the child, as text, or the error it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            try:
                said = str(work())
            except BaseException as error:  # noqa: BLE001 - the parent asserts
                said = repr(error)
            os.write(writer, said.encode()[:1000])
        finally:
            os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + PATIENCE
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.01)
    with os.fdopen(reader) as said:
        return said.read()


def forking(url, pool, before, child, after):
    """
    Let a child of this process fork between two things that the parent does, while the parent's loop does not run.

    Each is a coroutine function that is called with the engine and a list; what is in the list, the parent holds.

    Returns:
        What each of the three returned, as text: the parent before, the child, the parent after.
    """

    def work():
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            db, held = create_async_engine(url, poolclass=pool, pool_size=2, max_overflow=0, pool_timeout=3), []
            try:
                first = str(runner.run(before(db, held)))
                said = in_child(lambda: asyncio.run(child(db, held)))
                try:
                    last = str(runner.run(asyncio.wait_for(after(db, held), 3)))
                except Exception as error:  # noqa: BLE001 - it is asserted that there was none
                    last = repr(error)
            finally:
                with contextlib.suppress(Exception):  # the stock pool's connections may be broken by now
                    runner.run(asyncio.wait_for(db.dispose(), 1))
        return first, said, last

    return outcome(work)


async def idle(db, held):
    """Leave one connection idle; tell which it is."""
    return await backend_of(db)


async def hold(db, held):
    """Hold a connection, in a transaction that has made a table; tell which it is."""
    held.append(await db.connect())
    await held[0].execute(text("CREATE TEMPORARY TABLE mine ON COMMIT DROP AS SELECT 7"))
    return await backend(held[0])


async def carry_on(db, held):
    """See whether the transaction still goes on; tell in which connection, and what the pool says then."""
    (connection,) = held
    await connection.execute(text("SELECT * FROM mine"))
    pid = await backend(connection)
    await connection.close()
    return pid, pool_of(db).checkedin(), pool_of(db).checkedout()


async def two_at_once(db):
    """Check out two connections at the same time; tell which they are."""
    async with db.connect() as one, db.connect() as two:
        return await backend(one), await backend(two)


@both("Fork: a child takes its parent's idle connection", timed=False)
def test_child_does_not_use_an_idle_connection_of_its_parent(pool, postgres_url):
    """Fork: the child opens a connection of its own, twice the same; the parent's idle one still works after it."""

    async def child(db, held):
        first, second = await backend_of(db), await backend_of(db)
        await db.dispose()
        return first if first == second else (first, second)

    parents, childs, again = forking(postgres_url, pool, idle, child, idle)
    assert childs.isdigit(), childs
    assert childs != parents == again


@both("Fork: a child closes what its parent has checked out", timed=False)
def test_child_does_not_close_a_connection_its_parent_holds(pool, postgres_url):
    """Fork: what is out while the process forks is not closed by the child's collector, and takes no slot there."""

    async def child(db, held):
        held.clear()
        gc.collect()
        first, second = await two_at_once(db), await two_at_once(db)
        await db.dispose()
        return sorted(first) == sorted(second), *first

    parents, childs, again = forking(postgres_url, pool, hold, child, carry_on)
    assert childs.startswith("(True, "), childs
    assert parents not in childs
    assert again == f"({parents}, 1, 0)"


@both("Fork: a child that closes its copy of a connection rolls back its parent's transaction", timed=False)
def test_child_that_leaves_its_parents_block_does_no_harm(pool, postgres_url):
    """Fork: a child that closes its copy of a connection, in the middle of a transaction, does not end the parent's."""

    async def child(db, held):
        await asyncio.wait_for(held.pop().close(), 2)
        return len(set(await two_at_once(db)))

    parents, childs, again = forking(postgres_url, pool, hold, child, carry_on)
    assert (childs, again) == ("2", f"({parents}, 1, 0)")
