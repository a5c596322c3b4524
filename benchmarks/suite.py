"""What the pytest plugin costs a suite of small database tests: `python -m benchmarks.suite`. Blocks of tests, in turn with and without."""

from __future__ import annotations

import argparse
import json
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
_BLOCK: Final = 25
"""Tests of one variant, one after the other."""

_SWITCH: Final = '''
import gc, json, time

import pytest

from sqla_poolguard import pytest_plugin

VARIANTS, BLOCK = {variants!r}, {block}


class Switch:
    """Puts the plugin into a variant for a block of tests, and measures the block."""

    def __init__(self, config):
        self.config, self.at, self.watched, self.blocks = config, 0, True, []

    def put(self, variant):
        proctor = self.config.stash[pytest_plugin._DESK].proctor
        watched = variant.startswith("strict")
        if watched != self.watched:
            self.watched = watched
            if watched:
                proctor.witness.enter()
                self.config.pluginmanager.register(proctor, "poolguard-proctor")
            else:
                self.config.pluginmanager.unregister(proctor)
                proctor.witness.leave()
        proctor._base = proctor._base._replace(max_foreign_await=10.0 if variant.endswith("exact") else None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self):
        block, first = divmod(self.at, BLOCK)
        if first == 0:
            turn, place = divmod(block, len(VARIANTS))
            self.variant = VARIANTS[(place + turn) % len(VARIANTS)]
            self.put(self.variant)
            gc.collect()
            self.began = time.perf_counter(), time.process_time()
        result = yield
        self.at += 1
        if self.at % BLOCK == 0:
            wall, cpu = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
            self.blocks.append((self.variant, wall, cpu))
        return result

    def pytest_sessionfinish(self):
        self.put("strict")
        with open("blocks.json", "w") as file:
            json.dump(self.blocks, file)


def pytest_configure(config):
    config.pluginmanager.register(Switch(config))
'''
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
    parser.add_argument("--tests", type=int, default=4000, metavar="N", help="tests of the suite, a multiple of 100 (4000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def _run(folder: Path) -> list[tuple[str, float, float]]:
    """Run the suite; give (variant, seconds that it took, seconds of the CPU) of each block."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the suite failed:\n{done.stdout}")
    return [tuple(block) for block in json.loads((folder / "blocks.json").read_text())]


def main() -> None:
    """Measure, and print a table; "quiet CPU" compares the blocks that were the least disturbed, a fifth of each variant's."""
    arguments = _arguments()
    if arguments.tests < 1 or arguments.tests % (_BLOCK * len(_VARIANTS)):
        sys.exit(f"--tests {arguments.tests} is not allowed; allowed: multiples of {_BLOCK * len(_VARIANTS)}")
    with EmbeddedPostgres(max_connections=20) as server, tempfile.TemporaryDirectory() as place:
        folder, url = Path(place), server.url().replace("postgresql:", "postgresql+asyncpg:")
        (folder / "pytest.ini").write_text(_INI)
        (folder / "conftest.py").write_text(_SWITCH.format(variants=_VARIANTS, block=_BLOCK))
        (folder / "test_suite.py").write_text(_SUITE.format(url=url, tests=arguments.tests))
        blocks = _run(folder)
    turns = [blocks[at : at + len(_VARIANTS)] for at in range(0, len(blocks), len(_VARIANTS))][1:]  # the first warms up
    title = f"{arguments.tests} small database tests, in blocks of {_BLOCK}; medians over {len(turns)} turns"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for column in (
        "",
        "ms a test",
        "CPU ms a test",
        "time to without",
        "p20",
        "p80",
        "CPU to without",
        "p20",
        "p80",
        "quiet CPU",
    ):
        table.add_column(column, justify="right" if column else "left")
    figures = {}
    for name in _VARIANTS:
        own, base = ([next(one[1:] for one in turn if one[0] == wanted) for turn in turns] for wanted in (name, _VARIANTS[0]))
        row = [1000 * statistics.median(one[kind] for one in own) / _BLOCK for kind in (0, 1)]
        for kind in (0, 1):
            ratios = sorted(one[kind] / against[kind] for one, against in zip(own, base, strict=True))
            row += [statistics.median(ratios), ratios[len(ratios) // 5], ratios[-1 - len(ratios) // 5]]
        quiet = {each: sorted(one[2] for turn in turns for one in turn if one[0] == each)[len(turns) // 5] for each in _VARIANTS}
        row.append(quiet[name] / quiet[_VARIANTS[0]])
        figures[name] = row
        table.add_row(name, *(f"{value:.3f}" for value in row))
    Console(highlight=False, width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"tests": arguments.tests, "variants": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
