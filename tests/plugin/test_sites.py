"""The line of a checkout that only an event loop's runner stands above."""

from __future__ import annotations

import re

RUNS = """
    import gc, vendor

    def test_loop(engine):
        loop = asyncio.new_event_loop()
        KEPT.append(loop.run_until_complete(engine.connect().__aenter__()))  # HERE
        loop.close()

    def test_run(engine):
        KEPT.append(asyncio.run(vendor.leave(engine)))  # HERE

    def test_runner(engine):
        with asyncio.Runner() as runner:
            KEPT.append(runner.run(  # HERE
                engine.connect().__aenter__()))

    def test_own_line(engine):
        async def leave():
            return await engine.connect()  # HERE
        KEPT.append(asyncio.run(leave()))

    def test_from_library(engine):
        KEPT.append(vendor.run(engine))

    def test_helper(engine):
        KEPT.append(asyncio.run(vendor.beside(engine)))

    async def test_in_a_loop(engine):
        KEPT.append(await asyncio.create_task(vendor.leave(engine)))
"""
VENDOR = """
import asyncio


async def leave(engine):
    return await engine.connect()


async def beside(engine):
    return await asyncio.create_task(leave(engine))


def run(engine):
    return asyncio.run(leave(engine))
"""


def test_line_that_runs_the_loop(suite, pytester):
    """It is who runs a library's coroutine himself, and alone; not who runs a loop in which others' tasks check out."""
    site = pytester.path / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "vendor.py").write_text(VENDOR)
    run = suite(RUNS, pythonpath="lib/site-packages")
    written = (pytester.path / "test_it.py").read_text().splitlines()
    lines = {name: re.search(r"checked out at (\S+?):(\d+) in \S+", told) for name, told in run.blamed.items()}
    assert all(lines.values()), run.text
    for name in ("test_loop", "test_run", "test_runner", "test_own_line"):
        assert "# HERE" in written[int(lines[name][2]) - 1], run.blamed[name]
        assert f" in {name}" in lines[name][0]
    for name in ("test_from_library", "test_helper", "test_in_a_loop"):
        assert lines[name][0].endswith("vendor.py:6 in leave"), run.blamed[name]
    assert len(lines) == 7


def test_callers(suite):
    """Who has called the line is told, also where the test and its helper share a decorator; the test itself is called by nobody of interest."""
    run = suite("""
    import functools

    def with_connection(function):
        @functools.wraps(function)
        async def within(engine):
            connection = await engine.connect()
            if function.__name__ == "helper":
                KEPT.append(connection)
            await function(engine)
            if function.__name__ != "helper":
                await connection.close()
        return within

    @with_connection
    async def helper(engine):
        pass

    async def leave(engine):
        KEPT.append(await engine.connect())

    @with_connection
    async def test_shared(engine):
        await helper(engine)

    async def test_helper(engine):
        await leave(engine)

    async def test_itself(engine):
        KEPT.append(await engine.connect())
    """)
    callers = {name: re.findall(r"called from \S+ in (\S+)", told) for name, told in run.blamed.items()}
    assert callers["test_shared"][:2] == ["test_shared", "with_connection.<locals>.within"], run.text
    assert callers["test_helper"][0] == "test_helper"
    assert callers["test_itself"] == []
