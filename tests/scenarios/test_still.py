"""Holders that stand still are not looked at again, and a connection whose task is not known is looked for a few tasks at a time."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref

import pytest
from scenarios.stage import ONE, Stage
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_poolguard import _census, _reach
from sqla_poolguard._awaits import chain_of
from sqla_poolguard._sampler import drivers_of
from sqla_poolguard._stillness import Stillness
from sqla_poolguard._ticker import Beat, ticker


class Wait:
    """Something that is awaited until it is let go."""

    def __init__(self):
        self.gone = asyncio.Event()

    async def __call__(self):
        """Await it."""
        await self.gone.wait()


async def turns(count=5):
    """Let everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def end(*tasks):
    """Cancel some tasks."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await turns()


async def test_a_task_is_still_until_it_moves():
    """It moves when what it awaits comes, though it awaits the like again."""
    first, second = Wait(), Wait()

    async def two():
        await first()
        await second()

    task = asyncio.create_task(two())
    await turns()
    still = Stillness(chain_of(task), 4)
    assert still.lasts(task)
    assert not still.lasts(asyncio.current_task()), "it is about another one"
    first.gone.set()
    assert not still.lasts(task), "what it awaits has come"
    await turns()
    assert not still.lasts(task), "it awaits something else"
    assert Stillness(chain_of(task), 4).lasts(task)
    await end(task)
    assert not still.lasts(task)


@pytest.mark.parametrize("how", ["gather", "wait", "wait_for", "shield", "group"])
async def test_it_is_not_still_if_one_moves_that_it_waits_for(how):
    """Whatever it waits for them with, and however far away."""
    first, second = Wait(), Wait()

    async def two():
        await first()
        await second()

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(two())

    async def all_of():
        await {
            "gather": lambda: asyncio.gather(two()),
            "wait": lambda: asyncio.wait([asyncio.ensure_future(two())]),
            "wait_for": lambda: asyncio.wait_for(asyncio.create_task(two()), 30),
            "shield": lambda: asyncio.shield(asyncio.create_task(two())),
            "group": group,
        }[how]()

    task = asyncio.create_task(all_of())
    await turns()
    still = Stillness(chain_of(task), 4)
    assert still.lasts(task)
    first.gone.set()
    await turns()
    assert not still.lasts(task)
    assert Stillness(chain_of(task), 4).lasts(task)
    second.gone.set()
    await task


async def test_it_is_not_still_if_its_task_group_grows():
    """The new task may have to do with the connection."""
    inside, grown = Wait(), []

    async def body():
        async with asyncio.TaskGroup() as tasks:
            grown.append(lambda: tasks.create_task(Wait()()))
            await inside()

    task = asyncio.create_task(body())
    await turns()
    still = Stillness(chain_of(task), 4)
    assert still.lasts(task)
    child = grown.pop()()
    await turns()
    assert not still.lasts(task)
    await end(child, task)


async def test_it_holds_nothing():
    """Neither tasks, nor what they await, nor task groups are kept alive."""
    task = asyncio.create_task(Wait()())
    await turns()
    still, seen = Stillness(chain_of(task), 4), weakref.ref(task)
    await end(task)
    del task
    gc.collect()
    assert seen() is None
    assert not still.lasts(asyncio.current_task())


@pytest.mark.postgres
async def test_census(postgres_url, monkeypatch):
    """All inquiries are answered by going through the tasks once, a few at each look; one that comes meanwhile, by the next round."""
    monkeypatch.setattr(_census, "_SECONDS", 0.0)
    async with Stage(postgres_url) as stage:

        async def keep(session):
            async with session:
                await session.execute(ONE)
                await Wait()()

        sessions = [AsyncSession(stage.db) for _ in range(2)]
        tasks = [asyncio.create_task(keep(session)) for session in sessions]
        records = stage.db.sync_engine.pool._watch.sampler.slots.out
        async with asyncio.timeout(10):
            while len(records()) < 2 or not all(session.in_transaction() for session in sessions):
                await asyncio.sleep(0.01)
        fairies = [(await session.connection()).sync_connection._dbapi_connection for session in sessions]
        loop = asyncio.get_running_loop()
        others = len(asyncio.all_tasks(loop))
        census = _census.Census(_reach.DIRECTLY)
        assert not census.is_asked
        del sessions  # the tasks have them
        inquiries = [census.ask(fairy) for fairy in (*fairies, object())]
        looks = 0
        late = None
        while not all(inquiry.is_over for inquiry in inquiries):
            census.go_on(loop, {})
            looks += 1
            late = late or census.ask(fairies[0])
        assert looks == others, "one task at each look, where there is no time for more"
        assert not late.is_over
        assert [inquiry.found and inquiry.found() in tasks for inquiry in inquiries] == [True, True, None]
        assert {inquiry.found() for inquiry in inquiries[:2]} == set(tasks)
        while census.is_asked:
            census.go_on(loop, {})
        assert late.found() is inquiries[0].found()
        await end(*tasks)


@pytest.mark.postgres
async def test_census_of_nothing(postgres_url):
    """A lease that nobody holds any more is nobody's, though tasks have closed connections, and variables that hold nothing."""
    async with Stage(postgres_url) as stage:

        async def keep():
            nothing = None
            async with stage.db.connect() as closed:
                await closed.execute(ONE)
            done.set()
            await Wait()()
            return nothing, closed

        done = asyncio.Event()
        task = asyncio.create_task(keep())
        await done.wait()
        await turns()
        inquiry = (census := _census.Census(_reach.DEEP)).ask(None)
        record = next(iter(stage.db.sync_engine.pool._watch.sampler.slots.idle))
        gone = type("Record", (), {"fairy_ref": record.fairy_ref, "dbapi_connection": None})
        drivers = drivers_of([gone, type("Record", (), {"fairy_ref": lambda: None, "dbapi_connection": record.dbapi_connection})])
        while census.is_asked:
            census.go_on(asyncio.get_running_loop(), drivers)
        assert (inquiry.is_over, inquiry.found, drivers) == (True, None, {})
        await end(task)


@pytest.mark.postgres
async def test_a_census_is_of_one_loop(postgres_url):
    """An engine that is used in two threads: what is asked in one loop is not answered by the tasks of the other."""
    async with Stage(postgres_url, guard={"await_warning": 60}) as stage:
        session = AsyncSession(stage.db)
        await asyncio.create_task(session.execute(ONE))  # a task that has finished holds it
        sampler = stage.db.sync_engine.pool._watch.sampler
        (record,) = sampler.slots.out()

        async def look_elsewhere():
            sampler.sample(Beat(asyncio.get_running_loop(), ticker), None)

        sampler.look_now(asyncio.get_running_loop())
        inquiry = record.lease.streak.inquiry
        assert not inquiry.is_over
        thread = threading.Thread(target=asyncio.run, args=(look_elsewhere(),))
        thread.start()
        thread.join()  # not awaited: nobody looks here meanwhile
        assert not inquiry.is_over
        sampler.sample(Beat(asyncio.get_running_loop(), ticker), None)
        assert inquiry.is_over
        assert inquiry.found() is asyncio.current_task(), "the session is in its hands"
        await session.close()


async def test_what_many_frames_share_is_looked_at_once():
    """A framework hands the same request down through forty functions: that costs no more than one."""
    shared = [{"key": [object() for _ in range(20)]} for _ in range(40)]
    wait = Wait()

    async def deep(levels, request):
        await (deep(levels - 1, request) if levels else wait())
        return request

    def calls(levels):
        chain = chain_of(tasks[levels])
        count = 0

        def note(_frame, event, _argument):
            nonlocal count
            count += event in {"call", "c_call"}

        sys.setprofile(note)
        try:
            found = list(_reach.connections_of(chain, _reach.DEEP))
        finally:
            sys.setprofile(None)
        assert found == []
        return count

    tasks = {levels: asyncio.create_task(deep(levels, shared)) for levels in (1, 40)}
    await turns()
    few, many = calls(1), calls(40)
    assert few > 800, "what is inside is looked at"
    assert many < few * 2
    await end(*tasks.values())
