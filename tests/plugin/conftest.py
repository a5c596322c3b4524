"""Runs of pytest inside of ours: small suites, and who is blamed in them."""

from __future__ import annotations

import gc
import sys
import textwrap
import warnings

import asyncpg  # noqa: F401 - these are here so that no run inside imports them, and the next run anew: C code does not like that
import psycopg  # noqa: F401
import psycopg_binary  # noqa: F401
import pytest
from doubles.kept import KEPT

import sqla_poolguard.testing  # noqa: F401

HEAD = """
    import asyncio, contextlib, gc, sys
    import anyio, pytest
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
    from sqla_poolguard import GuardedPool, allow_hold, snapshot
    from doubles.kept import KEPT
    from sqla_poolguard.testing import FakeDriver

    driver = FakeDriver()
    SELECT = text("select 1")

    def new_engine(**options):
        return FakeDriver().engine(**options)

    @pytest.fixture
    def engine():
        return new_engine()

    async def slowly(engine, seconds):
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            await asyncio.sleep(seconds)
"""


class Outcome:
    """What became of the tests of a run."""

    def __init__(self):
        self.results = {}
        """Test to passed, failed (in its call) or error, the first that is not passed."""
        self.blamed = {}
        """Test to what it was told of its connections."""
        self.told = {}
        """Test to all that was told of its failures."""
        self.sections = {}
        """Test to what was told of its connections beside its failure."""
        self.properties = {}
        """Test to the properties of its last report that are ours."""
        self.text = ""
        """All that was told of failures."""
        self.warnings = []
        """(test, text) of our warnings."""

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report):
        """Note a phase of a test."""
        name = report.nodeid.rpartition("::")[2]
        if report.outcome == "rerun":
            self.results.pop(name, None)
            return
        self.properties[name] = [value for key, value in report.user_properties if key == "poolguard"]
        self.text += report.longreprtext
        self.told[name] = self.told.get(name, "") + report.longreprtext
        result = "error" if report.failed and report.when != "call" else report.outcome
        if self.results.get(name, "passed") == "passed":
            self.results[name] = result
        if report.failed and "sqla-poolguard:" in report.longreprtext:
            self.blamed[name] = self.blamed.get(name, "") + report.longreprtext
        self.sections.pop(name, None)
        for title, content in report.sections:
            if "sqla-poolguard" in title:
                self.sections[name] = content

    @pytest.hookimpl
    def pytest_warning_recorded(self, warning_message, nodeid):
        """Note a warning of ours."""
        if "Poolguard" in type(warning_message.message).__name__:
            self.warnings.append((nodeid.rpartition("::")[2], str(warning_message.message)))


@pytest.fixture
def untraced():
    """Let nobody trace this thread: what a signal raises within coverage's own lock leaves that locked for ever."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


@pytest.fixture
def suite(pytester):
    """Give a function that runs a suite: its tests, options, and an ini file; it gives what became of them."""

    def run(source, *options, conftest="", head=HEAD, told=None, **ini):
        ini = {"asyncio_mode": "auto", "asyncio_default_fixture_loop_scope": "function", **ini}
        pytester.makeini("[pytest]\n" + "\n".join(f"{key} = {value}" for key, value in ini.items()))
        if conftest:
            pytester.makeconftest(textwrap.dedent(head) + textwrap.dedent(conftest))
        pytester.makepyfile(test_it=textwrap.dedent(head) + textwrap.dedent(source))
        outcome = Outcome()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.filterwarnings("ignore", "The garbage collector is trying")
            warnings.filterwarnings("ignore", category=ResourceWarning)  # so is what a leaked connection leaves
            done = pytester.inline_run("-p", "no:cacheprovider", *options, plugins=[outcome])
            if told is not None:
                told += KEPT
            KEPT.clear()
            gc.collect()  # what it has leaked is not to be found by the next
        outcome.ret = done.ret
        return outcome

    return run
