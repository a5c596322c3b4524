"""What samples add up to for exporters: time held across other awaits, and connections that were not given back, each once."""

from __future__ import annotations

import asyncio
import gc

import pytest
from scenarios.stage import LONG, ONE, SLEEP, Stage

from sqla_poolguard import allow_hold
from sqla_poolguard._ticker import Beat, ticker

SLACK = 0.6
"""Connection-seconds that the ticker's own looks may add on a machine that is slow."""

pytestmark = pytest.mark.postgres

kept = []


@pytest.fixture
def look(monkeypatch):
    """Look by hand, at connections that were out before, and never otherwise; each look stands for a quarter of a second."""
    monkeypatch.setattr(ticker, "enabled", False)

    def look(stage):
        beat = Beat(asyncio.get_running_loop(), ticker)
        beat.passed = 0.25
        stage.db.sync_engine.pool._watch.sampler.sample(beat, None)

    return look


def totals(stage):
    """Give what is counted for exporters."""
    return stage.db.sync_engine.pool._ledger.totals


def leaks(stage):
    """Give the leaks, without the zeros."""
    return {str(kind): count for kind, count in totals(stage).leaks.items() if count}


async def hold(stage, statement=ONE):
    """Hold a connection for ever, after a statement."""
    async with stage.db.connect() as connection:
        await connection.execute(statement)
        await asyncio.Event().wait()


async def end(*tasks):
    """Cancel tasks, and let them end."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def at_work(stage, count):
    """Let others run until so many connections are out, and their statements answered."""
    async with asyncio.timeout(10):
        while len(stage.db.sync_engine.pool._ledger.leases()) < count:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


async def test_foreign_awaits_add_up(look, postgres_url):
    """Each look counts every holder that awaits something else, though it sees it for the first time: so that short holds count too."""
    async with Stage(postgres_url, guard={"await_warning": 60}) as stage:
        assert totals(stage).foreign_await is None, "nobody has looked yet"
        tasks = [asyncio.create_task(hold(stage)) for _ in range(3)]
        await at_work(stage, 3)
        look(stage)
        assert totals(stage).foreign_await == pytest.approx(3 * 0.25, abs=SLACK)
        look(stage)
        assert totals(stage).foreign_await == pytest.approx(6 * 0.25, abs=SLACK)
        await end(*tasks)
        for _ in range(4):  # each is seen once
            task = asyncio.create_task(hold(stage))
            await at_work(stage, 1)
            look(stage)
            await end(task)
        assert totals(stage).foreign_await == pytest.approx(10 * 0.25, abs=SLACK)
        look(stage)
        assert totals(stage).foreign_await == pytest.approx(10 * 0.25, abs=SLACK)


async def test_no_foreign_await(look, postgres_url):
    """A query that takes long is none, nor is a hold that is declared to be right, nor a task that has finished."""
    async with Stage(postgres_url, guard={"await_warning": 60}) as stage:

        async def declared():
            with allow_hold("a leader's lock"):
                await hold(stage)

        async def finished():
            kept.append(await stage.db.connect())
            await kept[0].execute(ONE)

        tasks = [asyncio.create_task(declared()), asyncio.create_task(hold(stage, SLEEP))]
        await asyncio.create_task(finished())
        await at_work(stage, 3)
        look(stage)
        look(stage)
        assert totals(stage).foreign_await == 0
        await end(*tasks)
        await kept.pop().close()


async def test_beat_tells_how_long_it_was_since_the_last(postgres_url):
    """With the real ticker the total is about the time held."""
    async with Stage(postgres_url) as stage:
        task = asyncio.create_task(hold(stage))
        await at_work(stage, 1)
        begun, before = asyncio.get_running_loop().time(), totals(stage).foreign_await or 0.0
        async with asyncio.timeout(20):
            while (totals(stage).foreign_await or 0.0) < before + LONG:
                await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - begun > LONG / 2
        await end(task)


@pytest.mark.parametrize("lost", [False, True], ids=["given back", "collected"])
@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
async def test_orphan_is_counted_once(lost, postgres_url):
    """A connection whose task has finished is a leak when that is noticed, however often; and not once more when it is collected."""
    async with Stage(postgres_url) as stage:

        async def job():
            kept.append(await stage.db.connect())
            await kept[0].execute(ONE)

        await asyncio.create_task(job())
        async with asyncio.timeout(10):
            while not leaks(stage):
                await asyncio.sleep(0.01)
        await asyncio.sleep(LONG)
        assert leaks(stage) == {"orphaned": 1}
        if lost:
            kept.clear()
            gc.collect()
            await asyncio.sleep(0.05)
            assert stage.db.sync_engine.pool._ledger.ended["leaked"] == 1
        else:
            await kept.pop().close()
        assert leaks(stage) == {"orphaned": 1}
