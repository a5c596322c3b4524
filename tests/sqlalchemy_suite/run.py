"""
Runs SQLAlchemy's own test suite twice, with its stock pool and with GuardedPool in its place, and compares test by test.

Usage: `python tests/sqlalchemy_suite/run.py [--lane LANE] [--work FOLDER] [suite ...]`

Status 1 if a test ends in another way than with the stock class and `expected.py` gives no reason for it,
or if `expected.py` gives a reason that is no longer needed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import sqlalchemy
from expected import EXPECTED, Deviation, known_for
from sources import POSTGRES_SETTINGS, prepare, unpacked

from sqla_poolguard._cli.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from expected import Known

_LONGEST: Final = 1500
"""Seconds after which a run is ended; what has not run by then is a deviation."""
_ASYNC: Final = (
    "test/ext/asyncio",
    "test/engine/test_pool.py",
    "test/engine/test_reconnect.py",
    "test/engine/test_transaction.py",
    "test/engine/test_execute.py",
    "test/engine/test_logging.py",
)
_SYNC: Final = ("test/engine/test_pool.py", "test/engine/test_reconnect.py", "test/engine/test_logging.py")
LANES: Final = {
    "fast": "nobody listens to checkouts: GuardedPool's short way",
    "heard": "as in SQLAlchemy's suite, where a listener on every engine makes GuardedPool go SQLAlchemy's own way",
    "safe": "as if SQLAlchemy's private parts had changed",
}


class Suite(NamedTuple):
    """A selection of SQLAlchemy's tests, and what they run on."""

    replaced: str
    database: str
    """Of SQLAlchemy's `--dburi`; empty: a PostgreSQL of our own, over asyncpg."""
    tests: tuple[str, ...]


SUITES: Final = {
    "postgresql": Suite("AsyncAdaptedQueuePool", "", (*_ASYNC, "test/dialect/postgresql/test_async_pg.py")),
    "sqlite": Suite("AsyncAdaptedQueuePool", "sqlite+aiosqlite:///test.db", _ASYNC),
    "dialect": Suite("AsyncAdaptedQueuePool", "", ("test/dialect/test_suite.py",)),
    "forced": Suite("QueuePool", "sqlite:///:memory:", _SYNC),
}


@dataclass
class Result:
    """What became of one run: the outcome and message of each test, and how much the replacing pool was used."""

    outcomes: dict[str, str]
    messages: dict[str, str]
    used: str
    """Of the replacing pool; for printing."""
    seconds: float
    finished: bool = False

    def __str__(self) -> str:
        counts = Counter(self.outcomes.values())
        return (
            ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) + f" in {self.seconds:.0f} s{self.used}"
        )


def read(path: Path, seconds: float) -> Result:
    """Read what the plugin wrote: a test's worst phase is its outcome."""
    rank = ("passed", "skipped", "xfailed", "xpassed", "error", "failed")
    result = Result({}, {}, "", seconds)
    for line in path.read_text().splitlines():
        test, phase, outcome, message = json.loads(line)
        if phase == "used":
            result.used = f", {outcome} pools, {message}" if outcome else ""
            result.finished = True
            continue
        if outcome == "failed" and phase != "call":
            outcome = "error"
        before = result.outcomes.get(test, "passed")
        result.outcomes[test] = max(before, outcome, key=rank.index)
        if message:
            result.messages.setdefault(test, message)
    return result


def run(suite: Suite, sources: Path, folder: Path, lane: str) -> Result:
    """Run one suite in one lane, or with the stock class (""), in a process, folder and database of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    # the tests leave database files in the current folder
    shutil.copytree(sources, folder, ignore=shutil.ignore_patterns("doc", "examples"))
    outcomes = folder / "outcomes"
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "POOLGUARD_SUITE_REPLACED": suite.replaced if lane else "",
        "POOLGUARD_SUITE_LANE": lane,
        "POOLGUARD_SUITE_OUTCOMES": str(outcomes),
    }
    with ExitStack() as stack:
        # SQLite's file is in the current folder: SQLAlchemy takes a path with a dot apart, and all runs would share one file
        url = suite.database or prepare(stack.enter_context(EmbeddedPostgres(settings=POSTGRES_SETTINGS)))
        # -s: SQLAlchemy's conftest then leaves `lib/` alone and tests the SQLAlchemy that is installed, C extensions and all
        python = (
            sys.executable,
            "-s",
            "-m",
            "pytest",
            "-p",
            "poolguard_swap",
            "-p",
            "no:cacheprovider",
            "-q",
            "--maxfail=100000",
        )
        command = [*python, f"--basetemp={folder / 'temp'}", "-o", "faulthandler_timeout=120", "--dburi", url, *suite.tests]
        started = time.monotonic()
        with (folder / "log").open("w") as log:
            try:
                subprocess.run(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, timeout=_LONGEST, check=False)
            except subprocess.TimeoutExpired:
                log.write(f"\nended after {_LONGEST} s\n")
        outcomes.touch()
        return read(outcomes, time.monotonic() - started)


def compare(name: str, stock: Result, ours: Result) -> list[Deviation]:
    """List the tests that ended in different ways."""
    every = [*stock.outcomes, *(ours.outcomes.keys() - stock.outcomes.keys())]
    return [
        Deviation(
            name, test, stock.outcomes.get(test, "missing"), ours.outcomes.get(test, "missing"), ours.messages.get(test, "")
        )
        for test in every
        if stock.outcomes.get(test) != ours.outcomes.get(test)
    ]


def run_suite(name: str, lanes: list[str], sources: Path, work: Path, at_once: int) -> int:
    """Run one suite with both classes and print the differences; return how many things need somebody's attention."""
    with ThreadPoolExecutor(at_once) as pool:
        runs = [pool.submit(run, SUITES[name], sources, work / name / (lane or "stock"), lane) for lane in ("", *lanes)]
    stock, *results = (each.result() for each in runs)
    print(f"\n{name}\n  stock {stock}")
    wrong = 0
    lanes_of: dict[Deviation, list[str]] = {}
    for lane, ours in zip(lanes, results, strict=True):
        print(f"  {lane:6}{ours}")
        if not (stock.finished and ours.finished and stock.outcomes and ours.used):
            print("    NOT A RESULT: a run did not finish, or the pool was never used; see the logs (--work)")
            wrong += 1
            continue
        deviations = compare(name, stock, ours)
        print(f"    {len(stock.outcomes) - len(deviations)} of {len(stock.outcomes)} as stock")
        for deviation in deviations:
            lanes_of.setdefault(deviation, []).append(lane)
    return wrong + explain(name, lanes_of, every=len(lanes) == len(LANES) and not wrong)


def explain(name: str, lanes_of: dict[Deviation, list[str]], *, every: bool) -> int:
    """Print the deviations of one suite under their reasons; return how many have none, or are not there any more."""
    by_reason: dict[str, dict[str, list[str]]] = {}
    found: set[Known | None] = set()
    unexplained = 0
    for deviation, lanes in lanes_of.items():
        known = known_for(deviation)
        found.add(known)
        if known is None:
            unexplained += 1
            print(
                f"  UNEXPECTED {deviation.test} ({', '.join(lanes)})\n    {deviation.stock} -> {deviation.ours}: {deviation.message}"
            )
        else:
            by_reason.setdefault(known.reason, {}).setdefault(deviation.test, []).extend(lanes)
    for reason, tests in by_reason.items():
        print(f"  expected: {reason}", *(f"{test} ({', '.join(lanes)})" for test, lanes in sorted(tests.items())), sep="\n    ")
    stale = [known for known in EXPECTED if every and known.applies(name) and known not in found]
    for known in stale:
        print(f"  NO LONGER NEEDED: {known.test}: {known.reason}")
    return unexplained + len(stale)


def main() -> int:
    """Run the suites that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="*", help=f"of {', '.join(SUITES)}; default: all")
    parser.add_argument(
        "--lane", action="append", choices=LANES, help="default: all; " + "; ".join(map(": ".join, LANES.items()))
    )
    parser.add_argument("--work", type=Path, help="a folder to work in, kept; default: a temporary one")
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side; default: 2")
    options = parser.parse_args()
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="poolguard-suite-")))
        work = work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        sources = unpacked(work)
        print(f"SQLAlchemy {sqlalchemy.__version__}, Python {sys.version.split()[0]}")
        lanes = options.lane or list(LANES)
        wrong = sum(run_suite(name, lanes, sources, work, options.at_once) for name in options.suite or SUITES)
    print(f"\n{f'{wrong} to look at' if wrong else 'in order'}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
