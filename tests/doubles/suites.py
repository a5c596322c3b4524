"""Small suites for the runs of pytest inside of ours."""

from __future__ import annotations

KEEPS = "KEPT.append(await engine.connect())"
BACKGROUND = "KEPT.append(asyncio.create_task(slowly(engine, 60))); await asyncio.sleep(0.01)"


def a_test(body, mark=""):
    """Write a test, and an innocent one after it."""
    return f"\n    {mark}\n    async def test_it(engine):\n        {body}\n\n    async def test_after(engine):\n        await slowly(engine, 0)\n"
