"""The command, run in a process of its own; real servers, real PgBouncers and a real Prometheus for it to ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import sqla_poolguard
from sqla_poolguard._cli.command import poolguard
from sqla_poolguard._cli.embedded import EmbeddedPostgres

HOME = str(Path(sqla_poolguard.__file__).parents[1])
FORCED = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES", "WEB_CONCURRENCY")


class Size:
    """Runs `poolguard size`: in this process, which is quicker, or in one of its own, as a user would."""

    def __init__(self):
        kept = {name: value for name, value in os.environ.items() if name not in FORCED}
        path = os.pathsep.join(filter(None, (HOME, os.environ.get("PYTHONPATH"))))
        self.environment = {**kept, "PYTHONPATH": path, "PYTHONUTF8": "1"}

    def run(self, *arguments, **environment):
        """Run it to its end, in this process."""
        unset = dict.fromkeys(FORCED)
        done = CliRunner().invoke(poolguard, ["size", *map(str, arguments)], env=unset | environment, prog_name="poolguard")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    def start(self, *arguments, **environment):
        """Run it to its end, in a process of its own."""
        command = [sys.executable, "-P", "-m", "sqla_poolguard", "size", *map(str, arguments)]
        return subprocess.run(
            command,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=120,
        )

    def answer(self, *arguments):
        """Give its JSON."""
        done = self.run("--json", *arguments)
        assert done.returncode in {0, 1}, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def size():
    """The command."""
    return Size()


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL of its own, with reserves, roles and limits."""
    with EmbeddedPostgres(max_connections=60, settings={"reserved_connections": 4}) as started:
        yield started
