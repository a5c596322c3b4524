"""A small application in a process of its own, on the fake driver, for `poolguard top` to look at."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

APPLICATION = """
import asyncio, os, resource, sys, time
from sqlalchemy.util.concurrency import greenlet_spawn
from sqla_poolguard import Guard, GuardedPool, _inspector, _probe
from sqla_poolguard.monitor import PoolMonitor
from sqla_poolguard.testing import FakeDriver

mode = sys.argv[1]
if mode == "cleaned":
    _inspector._PRESENT = 0.1
if mode == "full":
    _inspector._PATIENCE = 0.2

async def hold(db, seconds):
    async with db.connect():
        await asyncio.sleep(seconds)

async def main():
    db = FakeDriver().engine(pool_size=1, max_overflow=1, pool_timeout=60, guard=Guard(name="orders", inspect=True, hold_warning=0.2))
    async with db.connect():
        pass
    if mode == "fork":
        child = os.fork()
        if child == 0:
            async with db.connect():
                print("child", os.getpid(), flush=True)
                time.sleep(60)
    if mode == "full":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))
    print("ready", os.getpid(), flush=True)
    if mode == "full":
        await asyncio.sleep(0.3)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
    if mode in {"quiet", "cleaned", "full"}:
        await asyncio.sleep(60)
    if mode == "stuck":
        asyncio.get_running_loop().call_later(0.2, time.sleep, 60)
    if mode == "monitored":
        async with PoolMonitor(db, interval=0.05), db.connect():
            await asyncio.sleep(60)
    if mode == "end":
        return
    await asyncio.gather(*(hold(db, 60) for _ in range(5)))

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path):
    """Give the folder of the sockets, which is not there yet."""
    return tmp_path / "sockets"


@pytest.fixture
def environment(folder):
    """Give the environment of every process here."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "POOLGUARD_INSPECT_DIR": str(folder), "PYTHONPATH": path, "PYTHONWARNINGS": "error", "COLUMNS": "120"}


@pytest.fixture
def application(environment, tmp_path):
    """Start the application in a mode; give its process once it is ready."""
    program = tmp_path / "app" / "orders.py"
    program.parent.mkdir()
    program.write_text(APPLICATION)
    started = []

    def start(mode, **more):
        process = subprocess.Popen(
            [sys.executable, "-P", str(program), mode],
            env={**environment, **more},
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        started.append(process)
        while True:
            line = process.stdout.readline()
            assert line, "it ended before it was ready"
            if line.startswith("child"):
                process.child = int(line.split()[1])
            if line.startswith("ready") and (mode != "fork" or hasattr(process, "child")):
                return process
            if mode == "fork" and hasattr(process, "child") and line.startswith("child"):
                return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture
def top(environment):
    """Run `poolguard top` to its end."""

    def run(*arguments, **more):
        command = [sys.executable, "-P", "-m", "sqla_poolguard", "top", *arguments]
        done = subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr
        return done

    return run


def until(true, seconds=20.0):
    """Wait until something is so; give it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found
