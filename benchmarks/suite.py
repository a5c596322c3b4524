"""
What the pytest plugin costs a suite of small database tests: `python -m benchmarks.suite`.

It times blocks of tests, in turn with and without. `--instructions` counts the machine's instructions instead (by valgrind), which
no neighbour disturbs: of pytest's process for a suite of 1,000 tests, by two short suites with each variant.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from sqla_poolguard._cli.embedded import EmbeddedPostgres

_VARIANTS: Final = ("without", "without, again", "strict", "strict, exact")
"""The second is as the first, and tells how much of the rest is noise."""
_BLOCK: Final = 20
"""Tests of one variant, one after the other."""
_WARMUP: Final = 5
"""Tests of a block that do not count: Python has to get used to other functions first."""

_SHORT, _LONGER, _WHOLE = 50, 250, 1000
"""Tests of the suites whose instructions are counted, and of the one for which they are told."""
_OPTIONS: Final = {
    "without": ("--poolguard=off",),
    "without, again": ("--poolguard=off",),
    "strict": ("--poolguard=strict",),
    "strict, exact": ("--poolguard=strict", "--poolguard-max-foreign-await=10"),
}
"""Each variant's, where it has a run of its own."""

_SWITCH: Final = '''
import gc, json, time

import pytest

from sqla_poolguard import pytest_plugin

VARIANTS, BLOCK = {variants!r}, {block}


class Switch:
    """Puts the plugin into a variant for a block of tests, and measures each."""

    def __init__(self, config):
        self.config, self.at, self.watched, self.tests = config, 0, True, []
        gc.freeze()

    def put(self, variant):
        proctor = self.config.stash[pytest_plugin._DESK].proctor
        watched = variant.startswith("strict")
        if watched != self.watched:
            self.watched = watched
            if watched:
                proctor.enter()
                self.config.pluginmanager.register(proctor, "poolguard-proctor")
            else:
                self.config.pluginmanager.unregister(proctor)
                proctor.leave()
        proctor._base = proctor._base._replace(max_foreign_await=10.0 if variant.endswith("exact") else None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self):
        block, place = divmod(self.at, BLOCK)
        self.at += 1
        turn, variant = divmod(block, len(VARIANTS))
        order = VARIANTS if turn % 2 else VARIANTS[::-1]
        variant = order[(variant + turn // 2) % len(VARIANTS)]
        if place == 0:
            self.put(variant)
        began = time.perf_counter(), time.process_time()
        result = yield
        self.tests.append((variant, time.perf_counter() - began[0], time.process_time() - began[1]))
        return result

    def pytest_sessionfinish(self):
        self.put("strict")
        with open("tests.json", "w") as file:
            json.dump(self.tests, file)


def pytest_configure(config):
    config.pluginmanager.register(Switch(config))
'''
_BY_COUNT: Final = """
import gc

from sqla_poolguard import _ticker

gc.set_threshold(*gc.get_threshold()[:2], 1_000_000)
_ticker.PAUSE = 3600


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
"""
"""
What comes by chance, or by the clock, is left out where instructions are counted, with and without the plugin. There is a full collection in some
500 tests; among those that are counted it is in one variant or in the other, and costs as much as 8 % of 200. So is the first that goes through
what was loaded. The pool's looks at its holders, ten a second, would be counted fifty times, since valgrind makes all that much slower.
"""
_INI: Final = """[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
asyncio_default_test_loop_scope = session
"""
_SUITE: Final = """
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sqla_poolguard import GuardedPool


@pytest.fixture(scope="session")
async def engine():
    engine = create_async_engine({url!r}, poolclass=GuardedPool)
    async with engine.begin() as connection:
        await connection.execute(text("create table if not exists item (id serial primary key, name text)"))
    yield engine
    await engine.dispose()


@pytest.fixture
async def session(engine):
    async with AsyncSession(engine) as session:
        yield session


@pytest.mark.parametrize("number", range({tests}))
async def test_item(session, number):
    await session.execute(text("insert into item (name) values (:name)"), {{"name": str(number)}})
    assert await session.scalar(text("select count(*) from item where name = :name"), {{"name": str(number)}}) == 1
    await session.rollback()
    assert await session.scalar(text("select count(*) from item where name = :name"), {{"name": str(number)}}) == 0
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__)
    parser.add_argument("--tests", type=int, default=16000, metavar="N", help="tests of the suite, a multiple of 80 (16000)")
    parser.add_argument("--instructions", action="store_true", help="count instructions; wants valgrind, five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def _run(folder: Path) -> list[tuple[str, float, float]]:
    """Run the suite; give (variant, seconds that it took, seconds of the CPU) of each test."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the suite failed:\n{done.stdout}")
    return [tuple(test) for test in json.loads((folder / "tests.json").read_text())]


def _count(folder: Path, options: tuple[str, ...]) -> int:
    """Count the instructions of a run of the suite."""
    valgrind = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
    }
    for command in (pytest, [*valgrind, *pytest]):  # once before, so that all is compiled: it is in every run but the first
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    counted = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or counted is None:
        sys.exit(f"the suite failed:\n{done.stdout}\n{done.stderr}")
    return int(counted[1].replace(",", ""))


def _instructions(folder: Path, url: str) -> dict[str, list[float]]:
    """Give, of each variant, the thousands of instructions for a test, their ratio to without, and that of the suite's."""
    counts: dict[tuple[str, int], int] = {}
    for tests in (_SHORT, _LONGER):
        (folder / "test_suite.py").write_text(_SUITE.format(url=url, tests=tests))
        for name, options in _OPTIONS.items():
            counts[name, tests] = _count(folder, options)
    per_test = {name: (counts[name, _LONGER] - counts[name, _SHORT]) / (_LONGER - _SHORT) for name in _OPTIONS}
    whole = {name: counts[name, _SHORT] + (_WHOLE - _SHORT) * per_test[name] for name in _OPTIONS}
    return {
        name: [per_test[name] / 1000, per_test[name] / per_test["without"], whole[name] / whole["without"]] for name in _OPTIONS
    }


def _blocks(tests: list[tuple[str, float, float]]) -> dict[str, tuple[float, float]]:
    """Give the median time, and CPU time, of a test in each block of a turn."""
    blocks = {}
    for at in range(0, len(tests), _BLOCK):
        block = tests[at + _WARMUP : at + _BLOCK]
        blocks[block[0][0]] = (statistics.median(test[1] for test in block), statistics.median(test[2] for test in block))
    return blocks


def _median(ratios: list[float]) -> tuple[float, float, float]:
    """Give the median, and between what it lies with 95 % confidence, by the ranks of the binomial distribution."""
    ordered, half = sorted(ratios), len(ratios) / 2
    away = 0.98 * math.sqrt(len(ratios))
    return statistics.median(ordered), ordered[max(int(half - away), 0)], ordered[min(int(half + away), len(ratios) - 1)]


def _times(tests: list[tuple[str, float, float]]) -> dict[str, list[float]]:
    """Give, of each variant, milliseconds of time and CPU time for a test, and of each kind the ratio to without with its interval."""
    turn = _BLOCK * len(_VARIANTS)
    turns = [_blocks(tests[at : at + turn]) for at in range(turn, len(tests), turn)]  # the first warms up
    figures = {}
    for name in _VARIANTS:
        row = [1000 * statistics.median(blocks[name][kind] for blocks in turns) for kind in (0, 1)]
        for kind in (0, 1):
            row += _median([blocks[name][kind] / blocks[_VARIANTS[0]][kind] for blocks in turns])
        figures[name] = row
    heads = ("ms a test", "CPU ms a test", "time to without", "from", "to", "CPU to without", "from", "to")
    _print(
        f"{len(tests)} small database tests; medians over {len(turns)} turns of {turn}, with the 95 % interval", heads, figures
    )
    return figures


def _print(title: str, heads: tuple[str, ...], figures: dict[str, list[float]]) -> None:
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for head in ("", *heads):
        table.add_column(head, justify="right" if head else "left")
    for name, row in figures.items():
        table.add_row(name, *(f"{value:,.3f}" for value in row))
    Console(highlight=False, width=120).print(table)


def main() -> None:
    """Measure, and print a table."""
    arguments = _arguments()
    turn = _BLOCK * len(_VARIANTS)
    if arguments.tests < 2 * turn or arguments.tests % turn:
        sys.exit(f"--tests {arguments.tests} is not allowed; allowed: multiples of {turn}, from {2 * turn}")
    with EmbeddedPostgres(max_connections=20) as server, tempfile.TemporaryDirectory() as place:
        folder, url = Path(place), server.url().replace("postgresql:", "postgresql+asyncpg:")
        (folder / "pytest.ini").write_text(_INI)
        if arguments.instructions:
            (folder / "conftest.py").write_text(_BY_COUNT)
            figures = _instructions(folder, url)
            _print(
                "instructions of pytest's process", ("1,000 a test", "to without", f"suite of {_WHOLE:,}, to without"), figures
            )
        else:
            (folder / "conftest.py").write_text(_SWITCH.format(variants=_VARIANTS, block=_BLOCK))
            (folder / "test_suite.py").write_text(_SUITE.format(url=url, tests=arguments.tests))
            figures = _times(_run(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps({"tests": arguments.tests, "variants": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
