"""Nothing of ours keeps a task, a frame, a connection, a pool or a loop alive; a leak made immortal would never be found."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import at_rest, engine, ledger_of, pool_of, queue_up
from doubles.virtual import VirtualLoop, turns

from sqla_poolguard import CheckoutTimeout, DatabaseUnavailable, Guard, GuardedPool, NoConnectionError, _fastlane
from sqla_poolguard._handover import TurnedAway

LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"


class Canary:
    """Dies with the frame that holds it."""


async def test_holding_task_is_not_kept_alive():
    """The lease of a task that has finished does not keep the task."""
    db = engine(pool_size=1)
    out = []

    async def take():
        out.append(await db.connect())

    task = asyncio.create_task(take())
    await task
    ref = weakref.ref(task)
    del task
    await turns()
    gc.collect()
    assert ref() is None
    assert pool_of(db).snapshot().holders[0].task is None
    await out[0].close()


async def test_frame_of_the_caller_is_not_kept_alive():
    """What is remembered of the caller, even its stack, is code, not frames."""
    db = engine(pool_size=1, guard=Guard(capture="stack"))

    async def take():
        canary = Canary()
        return await db.connect(), weakref.ref(canary)

    held, ref = await take()
    gc.collect()
    assert ref() is None
    await held.close()


async def test_task_that_gave_up_waiting_is_not_kept_alive():
    """A cancelled waiter that still stands in the queue does not keep its task or frame."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    tasks = await queue_up(db, [], "stays")

    async def ask():
        canary = Canary()
        refs.append(weakref.ref(canary))
        await db.connect()

    refs = []
    task = asyncio.create_task(ask())
    await turns()
    task.cancel()
    await asyncio.wait([task])
    refs.append(weakref.ref(task))
    del task
    await turns()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    await held.close()
    await asyncio.gather(*tasks)


async def test_error_is_not_kept_by_the_pool():
    """A CheckoutTimeout, its traceback and the frames in it die when the caller lets go of them."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    held = await db.connect()

    async def ask():
        canary = Canary()
        ref = weakref.ref(canary)
        with pytest.raises(CheckoutTimeout):
            await db.connect()
        return ref

    ref = await ask()
    gc.collect()
    assert ref() is None
    await held.close()


@pytest.mark.filterwarnings(LEAK)
async def test_leaked_connection_is_found_by_reference_counting_alone():
    """A connection that is dropped without a cycle is found at once, without a run of the garbage collector."""
    db = engine(pool_size=1)
    gc.disable()
    try:
        held = await db.connect()
        del held
        assert ledger_of(db).ended["leaked"] == 1
    finally:
        gc.enable()
    at_rest(db, idle=0)


async def test_who_is_turned_away_leaves_no_circle():
    """Its error, and the signal that told of it, go at once with whoever drops the error: no frame waits for the collector."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    held = await db.connect()
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(CheckoutTimeout) as caught:
            await db.connect()
        error = weakref.ref(caught.value)
        del caught
        assert error() is None
        await turns()  # asyncio holds the future of the wait until then
        assert [found for found in gc.get_objects() if isinstance(found, TurnedAway)] == []
    finally:
        gc.enable()
    await held.close()
    at_rest(db)


async def test_forgotten_engine_is_collected():
    """An engine, its pool and its timer are collected once nobody uses them, though the loop runs on."""
    db = engine(pool_size=1)
    async with db.connect():
        pass
    refs = [weakref.ref(pool_of(db)), weakref.ref(ledger_of(db))]
    del db
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    await asyncio.sleep(60)  # the timer of the pool that is gone fires in vain


async def test_disposed_pool_is_collected():
    """A retired pool is collected when its last connection has come back."""
    db = engine(pool_size=1)
    held = await db.connect()
    old = weakref.ref(pool_of(db))
    await db.dispose()
    gc.collect()
    assert old() is not None
    await held.close()
    del held
    gc.collect()
    assert old() is None
    assert len(ledger_of(db).pools()) == 1


async def test_nothing_stays_registered_after_use():
    """What marks records as checked out is empty when nothing is."""
    before = set(_fastlane.OUT)
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=2, pool_timeout=1, guard=Guard(breaker=False))
    held = await db.connect()
    await held.invalidate()
    await held.close()
    raw = await (await db.connect()).get_raw_connection()
    raw.detach()
    driver.connect = Gate.ERROR
    with pytest.raises(OSError, match="refuses"):
        await db.connect()
    assert before == _fastlane.OUT
    raw.dbapi_connection.gone()
    await db.dispose()


def test_closed_loop_is_not_kept_alive():
    """Not more than one closed loop is kept, however many an engine is used in."""
    db = engine(pool=GuardedPool, pool_size=1)
    refs = []

    async def use():
        async with db.connect():
            await asyncio.sleep(0)

    for _ in range(5):
        loop = VirtualLoop()
        loop.run_until_complete(use())
        loop.close()
        refs.append(weakref.ref(loop))
        del loop
    gc.collect()
    assert sum(ref() is not None for ref in refs) <= 1


@pytest.mark.parametrize("kind", [CheckoutTimeout, DatabaseUnavailable])
async def test_an_error_keeps_nothing_alive(kind):
    """Who handles the error of a wait, and lets go of it, lets go of all frames that it went through; no garbage collector is needed."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=1.5)
    held = await db.connect()
    if kind is DatabaseUnavailable:
        await held.invalidate()
        driver.connect = Gate.ERROR

    class Mark:
        pass

    async def ask():
        mark = Mark()
        try:
            await db.connect()
        except NoConnectionError as error:
            assert type(error) is kind  # noqa: PT017
        return weakref.ref(mark)

    gc.disable()
    try:
        mark = await ask()
        assert mark() is None
    finally:
        gc.enable()
    await held.close()
