"""The pytest plugin, as a team meets it: in processes of its own, with nothing imported before."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from xml.etree import ElementTree as ET

import pytest

LEAKY = """
    import asyncio

    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    from sqla_poolguard import GuardedPool


    def test_leaks():
        async def main():
            engine = create_async_engine("sqlite+aiosqlite:///leaky.db", poolclass=GuardedPool)
            session = AsyncSession(engine)
            await session.execute(text("select 1"))
            session.circle = session

        asyncio.run(main())


    def test_leaks_not():
        pass
"""
UNTOUCHED = """
    import asyncio

    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, StaticPool

    KEPT = []


    def test_leaks(tmp_path):
        async def main():
            engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")
            KEPT.append(await engine.connect())

        asyncio.run(main())


    def test_pools():
        url = "sqlite+aiosqlite:///a.db"
        pools = [create_async_engine(url, poolclass=given).pool for given in (AsyncAdaptedQueuePool, NullPool, StaticPool)]
        pools += [create_async_engine("sqlite+aiosqlite://").pool, create_async_engine(url, plugins=["poolguard"]).pool]
        names = [type(pool).__name__ for pool in pools]
        assert names == ["GuardedPool", "NullPool", "StaticPool", "StaticPool", "GuardedPool"]
"""
INNOCENT = """
    import sys


    def test_nothing():
        assert not {"sqlalchemy", "opentelemetry", "sqla_poolguard._pool", "sqla_poolguard._testing.proctor"} & set(sys.modules)
        assert "sqla_poolguard.pytest_plugin" in sys.modules
"""
IMPORTED_BY_A_FIXTURE = """
    import asyncio
    import sys
    import pytest
    import pytest_asyncio

    pytestmark = pytest.mark.asyncio(loop_scope="session")
    KEPT = []


    @pytest.fixture(scope="session")
    def registry():
        assert "sqla_poolguard._pool" not in sys.modules
        return []


    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def outer(request, registry):
        yield


    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def connection(outer):
        from sqla_poolguard.testing import FakeDriver

        async def work():
            while True:
                async with engine.connect():
                    await asyncio.sleep(0.02)

        engine = FakeDriver().engine()
        task = asyncio.create_task(work())
        async with engine.connect() as connection:
            yield connection
        task.cancel()


    @pytest.mark.poolguard(allow_hold="the marker of the test that was there first holds, too")
    async def test_first(connection, registry):
        KEPT.append(await connection.engine.connect())


    async def test_innocent(connection, registry):
        await asyncio.sleep(0.1)


    async def test_guilty(connection, registry):
        KEPT.append(await connection.engine.connect())


    async def test_fills(connection, registry):
        registry.append(await connection.engine.connect())


    async def test_empties(connection, registry):
        await registry.pop().close()
"""
IMPORTED_BY_AN_APPLICATION = """
    import pytest


    @pytest.fixture(scope="module", autouse=True)
    def state():
        return {}


    @pytest.fixture(scope="session")
    def client():
        import contextlib

        from starlette.applications import Starlette
        from starlette.testclient import TestClient

        @contextlib.asynccontextmanager
        async def lifespan(app):
            from sqla_poolguard.testing import FakeDriver

            app.state.engine = FakeDriver().engine()
            async with app.state.engine.connect():
                yield

        app = Starlette(lifespan=lifespan)
        with TestClient(app) as client:
            yield client


    def open_one(client, state, name):
        state[name] = client.portal.call(client.app.state.engine.connect().__aenter__)


    def test_first(client):
        pass


    def test_innocent(client, state):
        open_one(client, state, "closed")


    def test_guilty(client, state):
        open_one(client, state, "left")


    def test_last(client, state):
        client.portal.call(state["closed"].close)
"""
IMPORTED_BY_A_TEST = """
    import asyncio
    import pytest

    KEPT = []


    @pytest.fixture(scope="class")
    def registry(request):
        request.cls.connections = []
        return []


    class TestClass:
        def setup_class(cls):
            cls.loop = asyncio.new_event_loop()

        def teardown_class(cls):
            for connection in cls.connections:
                cls.loop.run_until_complete(connection.close())

        def test_imports(self, registry):
            from sqla_poolguard.testing import FakeDriver

            engine = FakeDriver().engine()
            self.connections.append(self.loop.run_until_complete(engine.connect().__aenter__()))
            registry.append(engine)

        def test_innocent(self, registry):
            self.connections.append(self.loop.run_until_complete(registry[0].connect().__aenter__()))

        def test_guilty(self, registry):
            KEPT.append(self.loop.run_until_complete(registry[0].connect().__aenter__()))
"""


def run(folder, source, *options):
    """Run pytest on a file; the plugin is found where the package is installed."""
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = module\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:logfire", *options, "test_it.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_leak_fails_its_test(tmp_path):
    """Installing the package is enough: a test that loses a connection is an error, and the summary lists its line."""
    done = run(tmp_path, LEAKY)
    assert done.returncode == 1, done.stdout
    assert "ERROR test_it.py::test_leaks - Failed: sqla-poolguard: connection" in done.stdout
    assert "1 error" in done.stdout
    assert "2 passed" in done.stdout
    section = done.stdout.partition("connections wasted (sqla-poolguard)")[2]
    assert "leaked: checked out at test_it.py:14 in test_leaks.<locals>.main (in test_it.py::test_leaks)" in section


@pytest.mark.parametrize("mode", ["warn", "off"])
def test_a_leak_may_pass(tmp_path, mode):
    """Where it is only to warn, it warns, and the summary lists the line all the same; off is off."""
    done = run(tmp_path, LEAKY, f"--poolguard={mode}")
    assert done.returncode == 0, done.stdout
    assert ("PoolguardWarning: connection leaked" in done.stdout) == (mode == "warn")
    assert ("connections wasted (sqla-poolguard)" in done.stdout) == (mode == "warn")


def test_nothing_is_said_or_imported_for_others(tmp_path):
    """A suite that uses no GuardedPool hears nothing of it, and imports neither the package's rooms nor SQLAlchemy."""
    done = run(tmp_path, INNOCENT)
    assert done.returncode == 0, done.stdout
    assert "poolguard" not in done.stdout


def test_the_plugin_is_loaded_in_no_time():
    """A run that never uses a pool loads five small files, which takes a small part of what pytest itself does."""
    program = [sys.executable, "-X", "importtime", "-c", "import pytest; import sqla_poolguard.pytest_plugin"]
    ratios = []
    for _ in range(5):
        told = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stderr
        rows = [line.removeprefix("import time:").split("|") for line in told.splitlines() if "|" in line]
        took = {name.strip(): int(cumulative) for _, cumulative, name in rows[1:]}
        ratios.append(took["sqla_poolguard.pytest_plugin"] / took["pytest"])
    names = [name.strip() for *_, name in rows]
    own = names[names.index("pytest") + 1 :]
    files = ("sqla_poolguard", "sqla_poolguard._arrival", "sqla_poolguard._testing", "sqla_poolguard._testing.policy")
    assert own == [*files, "sqla_poolguard.pytest_plugin"]
    assert min(ratios) < 0.1


@pytest.mark.parametrize("count", [1, 3])
def test_workers_hand_over_what_they_counted(tmp_path, count):
    """Under pytest-xdist the guilty test is blamed in its worker, and the summary is one."""
    done = run(tmp_path, LEAKY, "-n", str(count))
    assert done.returncode == 1, done.stdout
    assert "ERROR test_it.py::test_leaks - Failed: sqla-poolguard: connection" in done.stdout
    assert done.stdout.count("leaked: checked out at test_it.py:14") == 1


def test_every_engine_with_the_usual_pool(tmp_path):
    """`--poolguard-all` finds the leak of a suite that has never heard of GuardedPool; pools of another kind stay what they are."""
    done = run(tmp_path, UNTOUCHED)
    assert "test_leaks" not in done.stdout
    done = run(tmp_path, UNTOUCHED, "--poolguard-all")
    assert done.returncode == 1, done.stdout
    assert "ERROR test_it.py::test_leaks - Failed: sqla-poolguard: connection" in done.stdout
    assert "test_pools" not in done.stdout
    assert "2 passed, 1 error" in done.stdout


def blamed(done):
    """Give the tests that the terminal lists as failed, or as errors."""
    return re.findall(r"^(?:ERROR|FAILED) test_it\.py::(?:\w+::)?(\w+)", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("options", [[], ["-n", "1"]])
@pytest.mark.parametrize(
    ("source", "count"), [(IMPORTED_BY_A_FIXTURE, 5), (IMPORTED_BY_AN_APPLICATION, 4), (IMPORTED_BY_A_TEST, 3)]
)
def test_a_pool_that_is_imported_late(tmp_path, source, count, options):
    """
    Who imports the pool only in a fixture, or in a test, is watched from then on.

    What that fixture has is its own, and the fixtures that were there before may keep what tests check out.
    """
    done = run(tmp_path, source, *options)
    assert blamed(done) == ["test_guilty"], done.stdout
    assert f"{count} passed" in done.stdout
    assert done.returncode == 1


def test_junit_carries_the_findings(tmp_path):
    """The XML file has the message, and what was found as properties of the test."""
    run(tmp_path, LEAKY, "--junitxml=out.xml")
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "out.xml").iter("testcase")}
    (error,) = cases["test_leaks"].findall("error")
    assert "checked out at test_it.py:14" in error.text
    properties = [one for one in cases["test_leaks"].iter("property") if one.get("name") == "poolguard"]
    assert ["checked out at test_it.py:14" in one.get("value") for one in properties] == [True]
    assert not list(cases["test_leaks_not"])
