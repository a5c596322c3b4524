"""Suites as teams write them, on a real PostgreSQL: FastAPI with an overridden dependency, an outer transaction, workers, streams."""

from __future__ import annotations

import asyncpg  # noqa: F401 - so that no run inside imports it anew
import fastapi  # noqa: F401
import httpx  # noqa: F401
import pytest
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning"),
]

HEAD = """
    import asyncio, contextlib
    import httpx, pytest, pytest_asyncio
    from fastapi import BackgroundTasks, Depends, FastAPI
    from fastapi.responses import StreamingResponse
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
    from doubles.kept import KEPT
    from sqla_poolguard import GuardedPool, allow_hold

    SELECT = text("select 1")
    URL = {url!r}

    def new_engine(**options):
        return create_async_engine(URL, poolclass=GuardedPool, **options)
"""
ENGINE = """
    @pytest_asyncio.fixture(scope="{scope}", loop_scope="{scope}")
    async def engine():
        engine = new_engine()
        yield engine
        await engine.dispose()
"""
APPLICATION = """
    @pytest.fixture
    def app(engine):
        app = FastAPI()
        sessions = async_sessionmaker(engine)

        async def session_of_request():
            async with sessions() as session:
                yield session

        async def work():
            async with sessions() as session:
                await session.execute(text("select pg_sleep(0.05)"))

        @app.get("/right")
        async def right(session: AsyncSession = Depends(session_of_request)):
            return (await session.execute(SELECT)).scalar()

        @app.get("/early")
        async def early():
            async with sessions() as session:
                return (await session.execute(SELECT)).scalar()

        @app.get("/background")
        async def background(tasks: BackgroundTasks):
            tasks.add_task(work)
            KEPT.append(asyncio.create_task(work()))
            return "later"

        @app.get("/leak")
        async def leak():
            session = sessions()
            KEPT.append(session)
            return (await session.execute(SELECT)).scalar()

        @app.get("/stream")
        async def stream(session: AsyncSession = Depends(session_of_request)):
            async def rows():
                for row in (await session.execute(text("select generate_series(1, 3)"))).scalars():
                    yield f"{row}"
            return StreamingResponse(rows())

        app.session_of_request = session_of_request
        return app

    @pytest.fixture
    async def client(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            yield client
"""
TESTS = """
    async def test_right(client):
        for path in ("/right", "/early", "/stream"):
            assert (await client.get(path)).status_code == 200

    async def test_many(client):
        await asyncio.gather(*(client.get("/right") for _ in range(20)))

    async def test_background(client):
        assert (await client.get("/background")).json() == "later"

    async def test_leak(client):
        await client.get("/leak")

    async def test_after(client):
        await client.get("/right")

    async def test_own_session(client, app, engine):
        async with AsyncSession(engine) as session:
            app.dependency_overrides[app.session_of_request] = lambda: session
            await session.execute(SELECT)
            await client.get("/right")

    async def test_cancelled(engine):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), engine.connect() as connection:
                await connection.execute(text("select pg_sleep(10)"))

    async def test_released(poolguard, app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(poolguard.app(app)), base_url="http://app") as client:
            await client.get("/early")
            poolguard.assert_released_before_response()
            await client.get("/stream")
            with pytest.raises(AssertionError, match="GET /stream"):
                poolguard.assert_released_before_response()
"""
OUTER = """
    @pytest.fixture
    async def session(engine):
        async with engine.connect() as connection:
            transaction = await connection.begin()
            async with AsyncSession(bind=connection, join_transaction_mode="create_savepoint") as session:
                yield session
            await transaction.rollback()

    @pytest.mark.parametrize("number", range(3))
    async def test_outer(session, number):
        await session.execute(text("create table mine (id int)"))
        await session.commit()
        await asyncio.sleep(0.03)

    @pytest.fixture
    async def worker(engine):
        async def work():
            while True:
                async with engine.connect() as connection:
                    await connection.execute(text("select pg_sleep(0.01)"))
        task = asyncio.create_task(work())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def test_worker(worker):
        await asyncio.sleep(0.03)

    async def test_guilty(engine):
        await (await engine.connect()).execute(SELECT)

    async def test_cursor(engine):
        async with engine.connect() as connection:
            async for _ in await connection.stream(text("select generate_series(1, 10)")):
                pass

    async def test_last(session):
        await session.execute(SELECT)
"""


@pytest.mark.parametrize("scope", ["function", "module", "session"])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_an_application(suite, postgres_url, driver, scope):
    """Only the test whose request has left a session is blamed, at the route's line."""
    url = postgres_url.replace("postgresql:", f"postgresql+{driver}:")
    run = suite(
        ENGINE.format(scope=scope) + APPLICATION + TESTS,
        head=HEAD.format(url=url),
        asyncio_default_fixture_loop_scope=scope,
        asyncio_default_test_loop_scope=scope,
    )
    assert set(run.blamed) == {"test_leak"}, run.text
    assert {name for name, result in run.results.items() if result != "passed"} == {"test_leak"}
    assert "in app.<locals>.leak" in run.blamed["test_leak"]


@pytest.mark.parametrize("scope", ["function", "module"])
@pytest.mark.parametrize("exact", ["none", "0.02"])
def test_a_repository(suite, postgres_url, scope, exact):
    """An outer transaction, a worker and a cursor are right, in exact mode too; who drops a connection is blamed."""
    url = postgres_url.replace("postgresql:", "postgresql+asyncpg:")
    run = suite(
        ENGINE.format(scope=scope) + OUTER,
        head=HEAD.format(url=url),
        asyncio_default_fixture_loop_scope=scope,
        asyncio_default_test_loop_scope=scope,
        poolguard_max_foreign_await=exact,
    )
    assert set(run.blamed) == {"test_guilty"}, run.text
    assert {name for name, result in run.results.items() if result != "passed"} == {"test_guilty"}


def test_a_call_in_exact_mode(suite, postgres_url):
    """The route that holds its session across a call is blamed at its line; the one that commits before is not."""
    run = suite(
        ENGINE.format(scope="function")
        + """
    async def charge():
        await asyncio.sleep(0.05)

    async def commits(session):
        await session.execute(SELECT)
        await session.commit()
        await charge()

    async def holds(session):
        await session.execute(SELECT)
        await charge()

    @pytest.mark.parametrize("route", [commits, holds])
    async def test_it(engine, route):
        async with AsyncSession(engine) as session:
            await route(session)
    """,
        head=HEAD.format(url=postgres_url.replace("postgresql:", "postgresql+asyncpg:")),
        poolguard_max_foreign_await="0.02",
    )
    assert set(run.blamed) == {"test_it[holds]"}, run.text
    assert "awaits asyncio sleep at test_it.py" in run.blamed["test_it[holds]"]
    assert "in charge" in run.blamed["test_it[holds]"]


def test_workers_of_xdist(pytester, suite, postgres_url, monkeypatch):
    """Each of two workers blames its own."""
    monkeypatch.setenv("PYTHONPATH", str(pytester._request.config.rootpath / "tests"))
    run = suite(
        ENGINE.format(scope="function") + APPLICATION + TESTS,
        "-n2",
        head=HEAD.format(url=postgres_url.replace("postgresql:", "postgresql+asyncpg:")),
    )
    assert set(run.blamed) == {"test_leak"}, run.text
