"""Fixtures of every scope that hold connections, in every kind of loop: what is theirs is not the test's."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")

SCOPES = ["function", "class", "module", "package", "session"]

WIDE = SCOPES[1:]

FIXTURES = """
    import pytest_asyncio

    @{fixture}(scope="{scope}")
    def engine():
        return new_engine()

    @{fixture}(scope="{scope}")
    async def session(engine):
        async with AsyncSession(engine) as session:
            yield session

    @{fixture}(scope="{scope}")
    async def connection(engine):
        connection = await engine.connect()
        await connection.begin()
        yield AsyncSession(connection)
        await connection.close()

    @{fixture}(scope="{scope}")
    async def client(engine):
        class App:
            pass
        async with AsyncSession(engine) as session:
            app = App()
            app.overrides = {{"get_db": lambda: session}}
            yield app
        await engine.dispose()

    @{fixture}(scope="{scope}")
    async def worker(engine):
        async def work():
            async with engine.connect() as connection:
                await connection.execute(SELECT)
                await asyncio.sleep(60)
        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
"""

TESTS = """
    {mark}
    class TestAll:
        async def test_lazily(self, session):
            await session.execute(SELECT)

        async def test_again(self, session, connection, worker):
            await session.execute(SELECT)
            await connection.execute(SELECT)

        async def test_guilty(self, engine, session):
            await session.execute(SELECT)
            KEPT.append(await engine.connect())

        async def test_client(self, client, worker):
            await client.overrides["get_db"]().execute(SELECT)

        async def test_last(self, engine, connection):
            await slowly(engine, 0.01)
"""

MARKS = {
    "auto": "",
    "strict": "@pytest.mark.asyncio(loop_scope='{scope}')",
    "anyio": "@pytest.mark.anyio",
}


def run_scope(suite, scope, kind, source=TESTS, fixtures=FIXTURES, **ini):
    """Run the suite with fixtures of a scope, on one kind of loops."""
    mark = MARKS[kind].format(scope=scope)
    fixture = "pytest_asyncio.fixture" if kind == "strict" else "pytest.fixture"
    head = "    @pytest.fixture(scope='session')\n    def anyio_backend():\n        return 'asyncio'\n" if kind == "anyio" else ""
    ini = {"asyncio_mode": "auto" if kind == "auto" else "strict", "asyncio_default_fixture_loop_scope": scope, **ini}
    if kind == "auto":
        ini["asyncio_default_test_loop_scope"] = scope
    return suite(head + fixtures.format(scope=scope, fixture=fixture) + source.format(mark=mark), poolguard_quiesce="0.05", **ini)


@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("scope", SCOPES)
def test_fixtures_may_hold(suite, scope, kind):
    """Sessions of fixtures, used when a test first needs them, their workers and their clients are theirs; what a test leaves is its own."""
    run = run_scope(suite, scope, kind)
    assert set(run.blamed) == {"test_guilty"}, run.text
    assert "in TestAll.test_guilty" in run.blamed["test_guilty"]
    assert [name for name, result in run.results.items() if result != "passed"] == ["test_guilty"]


def test_fixtures_of_another_loop(suite):
    """A session of the session's loop, and tests that each have a loop of their own, with connections of their own from the same engine."""
    run = suite(
        FIXTURES.format(fixture="pytest_asyncio.fixture", scope="session")
        + """
    async def test_own(engine, session, worker):
        await slowly(engine, 0.01)

    async def test_again(engine, connection):
        await slowly(engine, 0.01)
        await slowly(engine, 0.01)

    async def test_guilty(engine, session):
        KEPT.append(await engine.connect())

    async def test_drops(engine):
        await engine.connect()

    async def test_last(engine, connection):
        await slowly(engine, 0.01)
    """,
        asyncio_default_fixture_loop_scope="session",
        asyncio_default_test_loop_scope="function",
    )
    assert set(run.blamed) == {"test_guilty", "test_drops"}, run.text


@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("scope", WIDE)
def test_a_fixture_that_leaks_is_named(suite, scope, kind):
    """What a fixture leaves when it ends is told with its name, where pytest tells of its end."""
    fixtures = (
        FIXTURES
        + """
    @{fixture}(scope="{scope}")
    async def careless(engine):
        KEPT.append(await engine.connect())
        yield
"""
    )
    source = """
    {mark}
    class TestAll:
        async def test_one(self, careless):
            pass

        async def test_two(self, careless):
            pass
"""
    run = run_scope(suite, scope, kind, source, fixtures)
    assert set(run.blamed) == {"test_two"}, run.text
    assert "in careless" in run.blamed["test_two"]
    assert "in the setup of fixture 'careless'" in run.blamed["test_two"]
    assert "which ended here" in run.blamed["test_two"]
