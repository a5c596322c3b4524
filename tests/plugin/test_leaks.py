"""Who is blamed for a connection that is left, lost or held in the background; and who is not."""

from __future__ import annotations

from textwrap import dedent, indent

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")

GUILTY = {
    "dropped": ("leaked", "connection = await engine.connect()"),
    "dropped_session": ("leaked", "session = AsyncSession(engine); await session.execute(SELECT)"),
    "in_a_cycle": ("leaked", "knot = [await engine.connect()]; knot.append(knot)"),
    "kept_in_a_global": ("orphaned", "KEPT.append(await engine.connect())"),
    "session_kept_in_a_global": (
        "orphaned",
        "session = AsyncSession(engine); await session.execute(SELECT); KEPT.append(session)",
    ),
    "error_path": (
        "leaked",
        """
        async def work():
            connection = await engine.connect()
            raise ValueError
            await connection.close()
        with contextlib.suppress(ValueError):
            await work()
        """,
    ),
    "helper_task": (
        "orphaned",
        "async def open_it(): KEPT.append(await engine.connect())\nawait asyncio.wait_for(open_it(), 1)",
    ),
    "gathered": (
        "orphaned",
        "async def open_it(): KEPT.append(await engine.connect())\nawait asyncio.gather(*(open_it() for _ in range(3)))",
    ),
    "background": ("background task", "KEPT.append(asyncio.create_task(slowly(engine, 60))); await asyncio.sleep(0.01)"),
    "background_without_a_task": (
        "orphaned",
        "async def open_it(): KEPT.append(await engine.connect())\nawait asyncio.create_task(open_it())",
    ),
    "cancelled_too_late": (
        "orphaned",
        """
        async def work():
            KEPT.append(await engine.connect())
            await asyncio.sleep(60)
        task = asyncio.create_task(work()); await asyncio.sleep(0.01); task.cancel()
        """,
    ),
    "nested_session": (
        "leaked",
        """
        async with AsyncSession(engine) as session:
            await session.execute(SELECT)
            await AsyncSession(engine).execute(SELECT)
        """,
    ),
    "loop_of_its_own": (
        "leaked",
        "async def open_it(): await engine.connect()\nawait asyncio.to_thread(lambda: asyncio.run(open_it()))",
    ),
}
"""What a test does, and what it is told."""

INNOCENT = {
    "closes": "async with engine.connect() as connection: await connection.execute(SELECT)",
    "session": "async with AsyncSession(engine) as session: await session.execute(SELECT)",
    "begins": "async with engine.begin() as connection: await connection.execute(SELECT)",
    "many_at_once": "await asyncio.gather(*(slowly(engine, 0.01) for _ in range(10)))",
    "background_that_ends": "KEPT.append(asyncio.create_task(slowly(engine, 0.1))); await asyncio.sleep(0.01)",
    "background_without_a_connection": "KEPT.append(asyncio.create_task(asyncio.sleep(60)))",
    "cancelled_query": """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await slowly(engine, 60)
        """,
    "cancelled_task": "task = asyncio.create_task(slowly(engine, 60)); await asyncio.sleep(0.01); task.cancel()",
    "declared": 'with allow_hold("a leader"): KEPT.append(asyncio.create_task(slowly(engine, 60))); await asyncio.sleep(0.01)',
    "invalidated": "connection = await engine.connect(); await connection.invalidate(); await connection.close()",
    "disposed": "async with engine.connect(): await engine.dispose()",
    "skipped": 'connection = await engine.connect(); await connection.close(); pytest.skip("why not")',
    "no_connection": "pass",
    "stream": "async with engine.connect() as connection:\n    with contextlib.suppress(Exception): await connection.stream(SELECT)",
}


def function(name, body, mark=""):
    """Write a test."""
    body = indent(dedent(body).strip(), "    ")
    return (
        f"{mark}\nasync def test_{name}(engine):\n{body}\n\nasync def test_after_{name}(engine):\n    await slowly(engine, 0)\n"
    )


@pytest.mark.parametrize("name", GUILTY)
def test_the_guilty_is_blamed(suite, name):
    """A test that leaves a connection fails, with the line and a remedy; the one that follows does not."""
    words, body = GUILTY[name]
    run = suite(function(name, body), poolguard_quiesce="0.05")
    assert set(run.blamed) == {f"test_{name}"}, run.text
    assert words in run.blamed[f"test_{name}"]
    assert "test_it.py:" in run.blamed[f"test_{name}"]
    assert "remedy: " in run.blamed[f"test_{name}"]
    assert run.results[f"test_after_{name}"] == "passed"


def test_no_innocent_is_blamed(suite):
    """Tests that are right pass, whatever they do with connections."""
    run = suite("".join(function(name, body) for name, body in INNOCENT.items()))
    assert run.blamed == {}, run.text
    assert set(run.results.values()) == {"passed", "skipped"}
    assert run.ret == 0
