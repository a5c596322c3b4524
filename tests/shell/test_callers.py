"""`Guard.capture`: the callers of the line, or nothing at all."""

from __future__ import annotations

import contextlib

import pytest
from doubles.pools import engine, pool_of
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_poolguard import Guard


@pytest.mark.parametrize(("capture", "callers"), [("site", 0), ("stack", 3)])
async def test_stack(capture, callers):
    """`capture="stack"` shows the callers too, innermost first, and none of SQLAlchemy's or asyncio's own frames."""
    db = engine(guard=Guard(capture=capture))

    async def inner():
        return await db.connect()

    async def middle():
        return await inner()

    async def outer():
        return await middle()

    connection = await outer()
    (holder,) = pool_of(db).snapshot().holders
    names = [site.function.rpartition(".")[2] for site in holder.stack]
    assert names[:callers] == ["middle", "outer", "test_stack"][:callers]
    assert bool(names) is (capture == "stack")
    assert not [site for site in holder.stack if "sqlalchemy" in site.file or "/sqla_poolguard/" in site.file]
    await connection.close()


async def test_stack_is_of_the_innermost_sixteen():
    """A deep recursion does not make it long, and is not gone through to its end."""
    db = engine(guard=Guard(capture="stack"))

    async def recur(depth):
        return await recur(depth - 1) if depth else await db.connect()

    connection = await recur(200)
    (holder,) = pool_of(db).snapshot().holders
    assert [site.function.rpartition(".")[2] for site in (holder.site, *holder.stack)] == ["recur"] * 16
    await connection.close()


async def test_stack_begins_at_the_site():
    """A library that the site has called, and that has called SQLAlchemy, is no caller of the site."""
    db = engine(guard=Guard(capture="stack"))

    async def enter(stack):
        await stack.enter_async_context(db.connect())

    async with contextlib.AsyncExitStack() as stack:
        await enter(stack)
        (holder,) = pool_of(db).snapshot().holders
        names = [site.function.rpartition(".")[2] for site in (holder.site, *holder.stack)]
        assert names[:2] == ["enter", "test_stack_begins_at_the_site"]


async def test_stack_through_run_sync():
    """The stack goes on from the synchronous function to the coroutine that called `run_sync`."""
    db = engine(guard=Guard(capture="stack"))

    def work(session):
        session.execute(text("SELECT 1"))

    async with AsyncSession(db) as session:
        await session.run_sync(work)
        (holder,) = pool_of(db).snapshot().holders
        names = [holder.site.function, *(site.function for site in holder.stack)]
        assert [name.rpartition(".")[2] for name in names[:2]] == ["work", "test_stack_through_run_sync"]


async def test_off():
    """`capture="off"` remembers nothing."""
    db = engine(guard=Guard(capture="off"))
    async with db.connect():
        (holder,) = pool_of(db).snapshot().holders
        assert (holder.site, holder.stack) == (None, ())
