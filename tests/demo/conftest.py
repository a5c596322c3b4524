"""Runs `poolguard` as a user would, in a process, folder and environment of its own, and looks for what it leaves behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

import sqla_poolguard

HOME = str(Path(sqla_poolguard.__file__).parents[1])
FORCED = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES")


class Command:
    """Starts the command with a temp folder of its own and a mark by which its processes are found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"poolguard-test-{uuid.uuid4().hex}"
        kept = {name: value for name, value in os.environ.items() if name not in FORCED and not name.startswith("OTEL_")}
        paths = os.pathsep.join(path for path in (HOME, os.environ.get("PYTHONPATH")) if path)
        self.env = kept | {
            "TMPDIR": str(folder),
            "PYTHONPATH": paths,
            "MARK": self.mark,
            "PYTHONUTF8": "1",
            "PYDANTIC_DISABLE_PLUGINS": "__all__",
        }

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "sqla_poolguard"), **env: str) -> subprocess.Popen[str]:
        """Start it, not waiting for its end."""
        return subprocess.Popen(
            (sys.executable, *program, *arguments),
            cwd=self.folder,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def run(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.start(*arguments, **options) as process:
            try:
                out, err = process.communicate(timeout=90)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def show(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run it to its end; again, if an act showed too little: it measures, on a machine that runs other tests at the same time."""
        for _ in range(3):
            done = self.run(*arguments, **options)
            if done.returncode != 1:
                break
        return done

    def left_behind(self) -> list[str]:
        """
        Name the files in the temp folder and the processes (on Linux) that are still there.

        Without the file by which Python's `tempfile` tries a folder, and which it leaves behind when it is killed at that moment.
        """
        files = [str(path) for path in self.folder.iterdir() if not (path.is_file() and path.read_bytes() in {b"", b"blat"})]
        return files + [process for process in map(self._ours, Path("/proc").glob("[0-9]*")) if process]

    def _ours(self, process: Path) -> str | None:
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (process / "environ").read_bytes().decode(errors="replace")
        except OSError:
            return None
        return f"{process.name} {command}" if self.mark in environment or str(self.folder) in command else None


@pytest.fixture
def poolguard():
    """The command, which must leave nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="pgd-"))  # short: PostgreSQL puts a socket in it
    command = Command(folder)
    try:
        yield command
        assert command.left_behind() == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
