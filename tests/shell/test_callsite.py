"""Which line is named: the innermost line of the application, through every way SQLAlchemy is called."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect

import pytest
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import Recorder, TimedPool, engine, pool_of
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session

from sqla_poolguard import CheckoutTimeout, Guard
from sqla_poolguard._facts import shorten


def here(offset=0):
    """Give the line of the caller, so much further on."""
    return inspect.currentframe().f_back.f_lineno + offset


def seen(db):
    """Give the only holder's site, as (line, function), and see that it is in this file."""
    (holder,) = pool_of(db).snapshot().holders
    assert shorten(holder.site.file) == shorten(__file__)
    return holder.site.line, holder.site.function.rpartition(".")[2]


async def test_engine_connect():
    """`await engine.connect()`."""
    db = engine()
    line = here(+1)
    connection = await db.connect()
    assert seen(db) == (line, "test_engine_connect")
    await connection.close()


async def test_engine_begin():
    """`async with engine.begin()`."""
    db = engine()
    line = here(+1)
    async with db.begin():
        assert seen(db) == (line, "test_engine_begin")


async def test_session_execute():
    """The line of the first `execute`, not that of the session's making."""
    db = engine()
    async with AsyncSession(db) as session:
        line = here(+1)
        await session.execute(text("SELECT 1"))
        assert seen(db) == (line, "test_session_execute")


async def test_session_begin_and_connection():
    """`session.connection()` inside `session.begin()`."""
    db = engine()
    async with async_sessionmaker(db).begin() as session:
        line = here(+1)
        await session.connection()
        assert seen(db) == (line, "test_session_begin_and_connection")


async def test_scoped_session():
    """A scoped session is a way through, not a place."""
    db = engine()
    session = async_scoped_session(async_sessionmaker(db), scopefunc=asyncio.current_task)
    line = here(+1)
    await session.execute(text("SELECT 1"))
    assert seen(db) == (line, "test_scoped_session")
    await session.remove()


async def test_run_sync_of_a_session():
    """The line inside the synchronous function that `run_sync` runs."""
    db = engine()
    lines = []

    def work(session):
        lines.append(here(+1))
        session.execute(text("SELECT 1"))

    async with AsyncSession(db) as session:
        await session.run_sync(work)
        assert seen(db) == (lines[0], "work")


async def test_greenlet_spawn_of_an_application_function():
    """A synchronous function of the application that is run in a greenlet of its own."""
    db = engine()
    lines = []

    def work():
        lines.append(here(+1))
        return db.sync_engine.connect()

    connection = await greenlet_spawn(work)
    assert seen(db) == (lines[0], "work")
    await greenlet_spawn(connection.close)


async def test_nested_functions_name_the_innermost():
    """A function that another one calls is the one that is named."""
    db = engine()
    lines = []

    async def open_one():
        lines.append(here(+1))
        return await db.connect()

    async def service():
        return await open_one()

    connection = await service()
    assert seen(db) == (lines[0], "open_one")
    await connection.close()


async def test_decorated_function():
    """A decorator around the function is not what is named."""
    db = engine()
    lines = []

    def logged(function):
        @functools.wraps(function)
        async def wrapper(*args):
            return await function(*args)

        return wrapper

    @logged
    async def open_one():
        lines.append(here(+1))
        return await db.connect()

    connection = await open_one()
    assert seen(db) == (lines[0], "open_one")
    await connection.close()


async def test_async_generator_dependency():
    """A connection that an async generator provides is named by the line in the generator."""
    db = engine()
    lines = []

    async def provide():
        lines.append(here(+1))
        async with db.connect() as connection:
            yield connection

    async for _ in provide():
        assert seen(db) == (lines[0], "provide")


async def test_context_manager_of_the_standard_library():
    """`asynccontextmanager` and `AsyncExitStack` are ways through, not places."""
    db = engine()
    lines = []

    @contextlib.asynccontextmanager
    async def provide():
        lines.append(here(+1))
        async with db.connect() as connection:
            yield connection

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(provide())
        assert seen(db) == (lines[0], "provide")


async def test_session_of_a_dependency_is_named_where_it_is_used():
    """With a session from a generator it is the line of the first statement that is named."""
    db = engine()

    @contextlib.asynccontextmanager
    async def provide():
        async with AsyncSession(db) as session:
            yield session

    async with provide() as session:
        line = here(+1)
        await session.execute(text("SELECT 1"))
        assert seen(db) == (line, "test_session_of_a_dependency_is_named_where_it_is_used")


async def test_task_and_gather():
    """In a task it is the line in the task's coroutine, and the task's name is told."""
    db = engine()
    lines = []

    async def work():
        lines.append(here(+1))
        return await db.connect()

    connection = await asyncio.create_task(work(), name="worker-1")
    assert seen(db) == (lines[0], "work")
    await connection.close()


async def test_wait_for_keeps_the_line():
    """`asyncio.wait_for` is a way through, whether it makes a task (Python 3.11) or not."""
    db = engine()
    lines = []

    async def open_one():
        lines.append(here(+1))
        return await db.connect()

    connection = await asyncio.wait_for(open_one(), 5)
    assert seen(db) == (lines[0], "open_one")
    await connection.close()


async def test_waiter_is_named_too():
    """Who waits is shown with its line."""
    db = engine(pool_size=1, max_overflow=0)
    lines = []

    async def ask():
        lines.append(here(+1))
        async with db.connect():
            pass

    async with db.connect():
        asking = asyncio.create_task(ask())
        await asyncio.sleep(1)
        (waiter,) = pool_of(db).snapshot().waiters
        assert (waiter.site.line, waiter.site.function.rpartition(".")[2]) == (lines[0], "ask")
    await asking


async def test_multi_line_call_names_a_line_of_the_statement():
    """A call over several lines is named by one of them."""
    db = engine()
    first = here(+1)
    connection = await (
        db
        .connect()
    )  # fmt: skip
    line, _ = seen(db)
    assert first <= line <= here(-2)
    await connection.close()


async def test_deep_recursion_is_searched_only_so_far():
    """However deep the application's own stack is, the innermost line is found."""
    db = engine()

    async def dive(depth):
        return await (dive(depth - 1) if depth else db.connect().start())

    connection = await dive(150)
    assert seen(db)[1] == "dive"
    await connection.close()


async def test_pool_asked_directly():
    """`pool.connect()` in a function of the application, granted and refused."""
    recorder = Recorder()
    db = engine(pool_size=1, max_overflow=0, pool_timeout=0, guard=Guard(observers=(recorder,)))
    lines = []

    def asks():
        for _ in range(2):
            lines.append(here(+1))
            first = pool_of(db).connect()
            with contextlib.suppress(CheckoutTimeout):
                pool_of(db).connect()
            first.close()

    await greenlet_spawn(asks)
    granted, rejected = ([fact.site.line for fact in recorder.of(event)] for event in ("granted", "rejected"))
    assert granted == lines
    assert rejected == [line + 2 for line in lines]


async def test_pool_asked_by_nobody_else():
    """`pool.connect` as the one function of a greenlet: the line that awaits it."""
    db = engine()
    for _ in range(2):
        line = here(+1)
        connection = await greenlet_spawn(pool_of(db).connect)
        assert seen(db) == (line, "test_pool_asked_by_nobody_else")
        await greenlet_spawn(connection.close)


async def test_connect_of_a_subclass_is_not_the_site():
    """An application that wraps `connect()` in a pool class of its own still learns who called."""

    class Wrapped(TimedPool):
        def connect(self):
            return super().connect()

    db = engine(pool=Wrapped)
    for _ in range(2):
        line = here(+1)
        connection = await db.connect()
        assert seen(db) == (line, "test_connect_of_a_subclass_is_not_the_site")
        await connection.close()


@pytest.mark.parametrize("refused", ["cancelled waiter", "cancelled connect", "slow connect", "slow ping", "in vain"])
async def test_refused_request(refused):
    """Who got nothing is named by the line that asked, though a cancellation unlinks the frames that await."""
    recorder, driver = Recorder(), FakeDriver()
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5, "guard": Guard(observers=(recorder,))}
    db = engine(driver, pool_pre_ping=refused == "slow ping", **options)
    lines = []

    async def repository():
        lines.append(here(+1))
        await db.connect()

    async def service():
        await repository()

    connection = await db.connect()
    if "connect" in refused:
        driver.connect = Gate.NEVER
    if refused == "slow ping":
        await connection.close()
        driver.ping = Gate.NEVER
    elif "connect" in refused:
        await connection.invalidate()
        await connection.close()
    for ask in (repository,) if refused == "slow ping" else (service, repository):
        task = asyncio.create_task(ask())
        await asyncio.sleep(0.1)
        if "cancelled" in refused:
            task.cancel()
        await asyncio.wait([task])
    sites = [(fact.site.line, fact.site.function.rpartition(".")[2]) for fact in recorder.of("rejected")]
    assert sites == [(line, "repository") for line in lines]
    await connection.close()


async def test_session_of_the_applications_own_class():
    """A synchronous session class of the application, run by SQLAlchemy, is nobody who asked, whatever ran before."""

    class Own(Session):
        def execute(self, *args, **kw):
            return super().execute(*args, **kw)

    db = engine()
    for _ in range(2):
        async with AsyncSession(db, sync_session_class=Own) as session:
            line = here(+1)
            await session.execute(text("SELECT 1"))
            assert seen(db) == (line, "test_session_of_the_applications_own_class")
        async with AsyncSession(db) as session:
            await session.run_sync(lambda session: session.execute(text("SELECT 1")))


async def test_connect_of_a_subclass_is_not_the_site_in_run_sync_either():
    """The application's pool class is passed over where the search begins in its own synchronous function, too."""

    class Wrapped(TimedPool):
        def connect(self):
            return super().connect()

    pool, lines = pool_of(engine(pool=Wrapped)), []

    def work():
        lines.append(here(+1))
        return pool.connect()

    connection = await greenlet_spawn(work)
    (holder,) = pool.snapshot().holders
    assert holder.site.line == lines[0]
    await greenlet_spawn(connection.close)
