"""The pytest plugin: what a team's own run says at its end. Each test here is a run of its own, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

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
"""
INNOCENT = """
    import sys


    def test_nothing():
        assert "sqlalchemy" not in sys.modules
        assert "sqla_poolguard.pytest_plugin" in sys.modules
"""


def run(folder, source):
    """Run pytest on a file; the plugin is found where the package is installed."""
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_leaks_are_listed(tmp_path):
    """A connection that nobody closed, and nobody collected before the end, is named with pool and line; no test fails for it."""
    done = run(tmp_path, LEAKY)
    assert done.returncode == 0, done.stdout
    section = done.stdout.partition("connections leaked (sqla-poolguard)")[2]
    assert (
        f"1 x  pool 'sqlite:{tmp_path}/leaky.db': never closed, checked out at test_it.py:14 in test_leaks.<locals>.main"
        in section
    )


def test_nothing_is_said_or_imported_for_others(tmp_path):
    """A suite that uses no GuardedPool hears nothing of it, and imports neither the package's rooms nor SQLAlchemy."""
    done = run(tmp_path, INNOCENT)
    assert done.returncode == 0, done.stdout
    assert "leaked" not in done.stdout
