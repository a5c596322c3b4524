"""What a test leaves in a wide fixture's hands comes to light when that ends, while another test runs: the guilty one is told."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from xml.etree import ElementTree as ET

import pytest

REGISTRY = """
    import types

    MODULE = types.SimpleNamespace()

    def setup_module():
        MODULE.sessions = []

    @pytest.fixture(scope="module")
    def registry():
        return []

    async def test_guilty(engine, registry):
        registry.append(await engine.connect())

    async def test_innocent(engine, registry):
        await slowly(engine, 0)

    async def test_failed(engine, registry):
        registry.append(await engine.connect())
        assert not "so"

    @pytest.mark.poolguard(expect_leak=True)
    async def test_expected(engine, registry):
        registry.append(await engine.connect())

    async def test_last(engine, registry):
        registry.append(AsyncSession(engine))
        await registry[-1].execute(SELECT)
        await registry.pop().close()
"""


def test_leak_into_a_wide_fixture(suite):
    """The test is told that has checked it out, as an error of its teardown; no other."""
    run = suite(REGISTRY)
    assert run.results == {
        "test_guilty": "error",
        "test_innocent": "passed",
        "test_failed": "failed",
        "test_expected": "passed",
        "test_last": "passed",
    }, run.text
    assert set(run.blamed) == {"test_guilty"}
    told = run.blamed["test_guilty"]
    assert "checked out at test_it.py:" in told
    assert "in test_guilty" in told
    assert "kept by fixture 'registry' (module scope), and was still out when that ended" in told
    assert "in the setup of" not in told
    assert run.ret == 1


def test_leak_into_an_attribute(suite):
    """Likewise of a module's attribute, where `setup_module` is, and of the class's, in the last test itself."""
    run = suite("""
    def setup_module(module):
        module.sessions = []

    async def test_guilty(engine):
        sessions.append(AsyncSession(engine))
        await sessions[0].execute(SELECT)

    async def test_innocent(engine):
        await slowly(engine, 0)

    class TestClass:
        @classmethod
        def setup_class(cls):
            cls.sessions = []

        async def test_before(self, engine):
            await slowly(engine, 0)

        async def test_last(self, engine):
            self.sessions.append(AsyncSession(engine))
            await self.sessions[0].execute(SELECT)
    """)
    assert set(run.blamed) == {"test_guilty", "test_last"}, run.text
    assert run.results["test_innocent"] == run.results["test_before"] == "passed"


def test_it_may_only_warn(suite):
    """Where the plugin only warns, the warning names the guilty test."""
    run = suite(REGISTRY, poolguard="warn")
    ((_, told),) = run.warnings
    assert told.startswith("test_it.py::test_guilty: connection orphaned")
    assert run.blamed == {}


HEAD = """
    import pytest
    from sqlalchemy import text
    from sqla_poolguard.testing import FakeDriver

    @pytest.fixture
    def engine():
        return FakeDriver().engine()

    @pytest.fixture(scope="module")
    def registry():
        return []

    async def test_guilty(engine, registry):
        registry.append(await engine.connect())

    async def test_innocent(engine, registry):
        pass
"""


@pytest.mark.parametrize("options", [[], ["-n", "1"], ["-n", "2", "--dist=loadfile"], ["-v"]])
def test_everybody_hears_of_it(tmp_path, options):
    """The terminal, the exit status and JUnit's file name the guilty test, and no other; under pytest-xdist, too."""
    (tmp_path / "test_it.py").write_text(textwrap.dedent(HEAD))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=out.xml", *options, "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ERROR test_it.py::test_guilty - sqla-poolguard: connection" in done.stdout, done.stdout
    assert re.search("2 passed, .*1 error", done.stdout)
    assert "ERROR test_it.py::test_innocent" not in done.stdout
    errors = [(case.get("name"), case.find("error")) for case in ET.parse(tmp_path / "out.xml").iter("testcase")]
    assert {name for name, error in errors if error is not None} == {"test_guilty"}
    assert "checked out at test_it.py:" in next(error.text for _, error in errors if error is not None)
