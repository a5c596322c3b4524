"""`retry_safe`: true only where it is certain that the request has not used the database."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from doubles.web import ask, small
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.util.concurrency import greenlet_spawn
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from sqla_poolguard import CheckoutTimeout, Guard, GuardedPool, _fastlane
from sqla_poolguard._asgi import tally
from sqla_poolguard.asgi import PoolGuardMiddleware, add_exception_handlers

ONE = text("SELECT 1")


async def nothing(engine):
    """Do nothing before."""


async def statement(engine):
    """Run a statement, and give the connection back."""
    async with engine.connect() as connection:
        await connection.execute(ONE)


async def session(engine):
    """Run a statement in a session."""
    async with AsyncSession(engine) as own:
        await own.execute(ONE)


async def in_a_task(engine):
    """Run a statement in a task."""
    await asyncio.create_task(statement(engine))


async def in_a_group(engine):
    """Run a statement in a task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(statement(engine))


async def connection_alone(engine):
    """Take a connection, through which the driver's own can be reached."""
    async with engine.connect() as connection:
        await connection.get_raw_connection()


async def raw(engine):
    """Take the driver's connection from the pool, of which no engine tells."""
    (await engine.raw_connection()).close()


async def after_invalidating(engine):
    """Take a connection, and another one through it."""
    async with engine.connect() as connection:
        await connection.invalidate()
        await connection.rollback()


async def refused(engine):
    """Ask in vain."""
    async with engine.connect():
        with pytest.raises(CheckoutTimeout):
            await engine.connect()


def app_of(engine, other, before):
    """Give an application that does something with one engine, and is refused by another one."""

    async def route(request):
        await before(engine)
        async with other.connect():
            pass

    app = Starlette(routes=[Route("/", route)])
    app.add_middleware(PoolGuardMiddleware)
    return app


@pytest.mark.parametrize(
    ("before", "safe"),
    [
        (nothing, True),
        (statement, False),
        (session, False),
        (in_a_task, False),
        (in_a_group, False),
        (connection_alone, False),
        (raw, False),
        (after_invalidating, False),
        (refused, False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_was_done_before(orders, before, safe):
    """Only a request that has had no connection may be repeated; after the pool's own answers the driver may have been used."""
    other = small(name="other")
    app = app_of(orders, other, before)
    async with other.connect():
        for _ in range(2):  # the second one does not suffer for the first
            assert (await ask(app)).json()["retry_safe"] is safe
    await other.dispose()


async def test_a_stock_pool_counts_too(orders, tmp_path):
    """A statement counts, whatever pool its engine has."""
    stock = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/stock.db")
    async with orders.connect():
        assert (await ask(app_of(stock, orders, statement))).json()["retry_safe"] is False
        assert (await ask(app_of(stock, orders, nothing))).json()["retry_safe"] is True
    await stock.dispose()


async def test_a_connection_from_outside_counts_when_it_is_used(orders):
    """A statement on a connection that was taken before the request makes it unsafe."""
    other = small(name="other")
    async with orders.connect() as shared, other.connect():

        async def use(_):
            await shared.execute(ONE)

        assert (await ask(app_of(None, other, use))).json()["retry_safe"] is False
        assert (await ask(app_of(None, other, nothing))).json()["retry_safe"] is True
    await other.dispose()


async def test_what_others_do_does_not_count(orders, tmp_path):
    """Statements of other requests and of the background, at the same time, leave a request as safe as it is."""
    other, own = small(name="other", pool_timeout=0.1), small(name="own")
    stock = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/stock.db")
    app = app_of(None, other, nothing)

    over = False

    async def busy():
        while not over:
            await statement(orders)
            await statement(stock)

    async with other.connect():
        task = asyncio.create_task(busy())
        unsafe = asyncio.create_task(ask(app_of(own, other, statement)))
        answers = await asyncio.gather(*(ask(app) for _ in range(5)))
        assert [each.json()["retry_safe"] for each in answers] == [True] * 5
        assert (await unsafe).json()["retry_safe"] is False
        over = True
    await task
    for engine in (stock, other, own):
        await engine.dispose()


async def test_a_mounted_application_counts_with_the_outer_one(orders):
    """With the middleware twice, what the outer layers did before counts; what comes after counts for itself."""
    other = small(name="other")
    inner = app_of(None, other, nothing)

    async def dirty(scope, receive, send):
        if scope["query_string"]:
            await statement(orders)
        await mounted(scope, receive, send)

    mounted = Starlette(routes=[Mount("/inner", inner)])
    app = PoolGuardMiddleware(dirty)
    async with other.connect():
        assert (await ask(app, url="/inner/?dirty")).json()["retry_safe"] is False
        assert (await ask(app, url="/inner/")).json()["retry_safe"] is True
    await other.dispose()


async def test_a_request_that_inherits_an_answered_one(orders):
    """A task that the first request's task creates, as servers do for pipelined requests, begins anew when that one is over."""
    app = PoolGuardMiddleware(app_of(orders, orders, nothing))
    answers = []

    async def first(scope, receive, send):
        await statement(orders)

    async def both():
        with tally.Tally():
            await statement(orders)
            task = asyncio.create_task(later())
        await task

    async def later():
        async with orders.connect():
            answers.append(await ask(app))

    await both()
    assert answers[0].json()["retry_safe"] is True


async def test_with_a_dependency_in_a_thread(tmp_path):
    """FastAPI runs synchronous dependencies in threads, where a synchronous engine may be used; it is the same request."""
    other, stock = small(name="other"), create_engine(f"sqlite:///{tmp_path}/stock.db")

    def user():
        with stock.connect() as own:
            own.execute(ONE)

    app = FastAPI()
    app.add_middleware(PoolGuardMiddleware)

    @app.get("/", dependencies=[Depends(user)])
    async def route():
        async with other.connect():
            pass

    async with other.connect():
        assert (await ask(app)).json()["retry_safe"] is False
    await other.dispose()
    stock.dispose()


async def test_who_does_not_count_does_not_know(orders):
    """Without counting, and with a handler alone, it is never said to be safe, and nobody listens to engines."""

    async def route(request):
        await orders.connect()

    plain = Starlette(routes=[Route("/", route)])
    add_exception_handlers(plain)
    uncounted = Starlette(routes=[Route("/", route)])
    uncounted.add_middleware(PoolGuardMiddleware, count_statements=False)
    async with orders.connect():
        for app in (plain, uncounted):
            assert (await ask(app)).json()["retry_safe"] is False
        assert not event.contains(Engine, "engine_connect", tally._connected)
        assert not Engine._has_events
        assert (await ask(PoolGuardMiddleware(plain))).json()["retry_safe"] is True
    assert Engine._has_events


async def test_it_listens_once(orders):
    """However many middlewares there are, a statement is told to one listener."""
    before = len(list(orders.sync_engine.dispatch.before_cursor_execute))
    for _ in range(3):
        PoolGuardMiddleware(None)
    assert len(list(orders.sync_engine.dispatch.before_cursor_execute)) == before + 1
    assert len(list(orders.sync_engine.dispatch.engine_connect)) == 1


async def test_the_fast_lane_stays_open():
    """A checkout costs what it did: nobody listens to the pool."""
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=GuardedPool, guard=Guard(name="lane"))
    PoolGuardMiddleware(None)
    async with engine.connect():
        pass
    pool = engine.sync_engine.pool
    fairy = _fastlane.take(pool, pool._clock(), asyncio.get_running_loop())
    assert fairy is not None
    await greenlet_spawn(fairy.close)  # outside of a greenlet it would be cut off, and its thread would outlive the loop
    await engine.dispose()


def test_importing_listens_to_nothing():
    """Who imports the module gets no listener and no framework; the first middleware sets the listener."""
    program = (
        "import sys, sqla_poolguard.asgi as asgi, sqlalchemy.engine as e\n"
        "assert not e.Engine._has_events\n"
        "assert not {'starlette', 'fastapi', 'litestar', 'anyio'} & set(sys.modules), 'a framework'\n"
        "asgi.PoolGuardMiddleware(None)\n"
        "assert e.Engine._has_events\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
