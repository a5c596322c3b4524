"""The pytest plugin, as a team meets it: in processes of its own, with nothing imported before."""

from __future__ import annotations

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
IMPORTED_BY_THE_TEST = """
    import asyncio
    import pytest

    KEPT = []


    @pytest.fixture(scope="module")
    def engine():
        from sqla_poolguard.testing import FakeDriver

        return FakeDriver().engine()


    @pytest.fixture(scope="module")
    async def session(engine):
        from sqlalchemy.ext.asyncio import AsyncSession

        async with AsyncSession(engine) as session:
            await session.connection()
            yield session


    @pytest.mark.asyncio(loop_scope="module")
    async def test_innocent(session):
        pass


    @pytest.mark.asyncio(loop_scope="module")
    async def test_guilty(engine, session):
        KEPT.append(await engine.connect())
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


def test_a_pool_that_is_imported_by_a_fixture(tmp_path):
    """Who imports the pool only in a fixture is watched from then on; the fixture's connection is not the first test's."""
    done = run(tmp_path, IMPORTED_BY_THE_TEST)
    assert done.returncode == 1, done.stdout
    assert "test_guilty" in done.stdout
    assert "test_innocent" not in done.stdout


def test_junit_carries_the_findings(tmp_path):
    """The XML file has the message, and what was found as properties of the test."""
    run(tmp_path, LEAKY, "--junitxml=out.xml")
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "out.xml").iter("testcase")}
    (error,) = cases["test_leaks"].findall("error")
    assert "checked out at test_it.py:14" in error.text
    properties = [one for one in cases["test_leaks"].iter("property") if one.get("name") == "poolguard"]
    assert ["checked out at test_it.py:14" in one.get("value") for one in properties] == [True]
    assert not list(cases["test_leaks_not"])
