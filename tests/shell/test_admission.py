"""Who is turned away, when, and what it is told; what happens when that meets a hand-out, a timeout, a cancellation or the collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import threading
import weakref

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, at_rest, engine, ledger_of, pool_of, queue_up, rejected
from doubles.virtual import VirtualLoop, elapsed, turns

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, DatabaseUnavailable, Guard, Observer, priority
from sqla_poolguard._overload import Priority

LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"


def strict(**options):
    """Give a guard that turns away; with a hold of a quarter of a second, four may wait."""
    return Guard(**{"fail_fast": True, "max_wait": 1.1, "hold_warning": None, **options})


async def learn(db, hold=0.25, times=64):
    """Let the pool see holds of one length."""
    for _ in range(times):
        async with db.connect():
            await asyncio.sleep(hold)


async def single(driver=None, **options):
    """Make an engine with one connection that is usually held for a quarter of a second, and hold it."""
    more = {"guard": strict(), "pool_timeout": 30, **options}
    db = engine(driver, pool_size=1, max_overflow=0, **more)
    await learn(db)
    return db, await db.connect()


def outcomes(tasks):
    """Tell of finished tasks how they ended."""
    return [type(task.exception()).__name__ if not task.cancelled() else "cancelled" for task in tasks if task.done()]


async def test_the_oldest_is_turned_away_at_once():
    """Four may wait; for the fifth the first is told no in the same moment, why, and when to come back; the others are served in order."""
    db, held = await single()
    began, order = elapsed(), []
    tasks = await queue_up(db, order, *range(5))
    await turns()
    assert outcomes(tasks) == ["CheckoutRejected"]
    error = tasks[0].exception()
    assert (error.reason, error.waited, elapsed()) == ("rejected", 0.0, began)
    assert error.retry_after == pytest.approx((4 + 2) * 0.25, rel=0.05)  # behind those who wait, at half the rate
    assert error.status_code == 503
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    ledger_of(db).check()
    await held.close()
    await asyncio.gather(*tasks[1:])
    assert order == [1, 2, 3, 4]
    at_rest(db, idle=1)
    assert rejected(db) == {"rejected": 1}


@pytest.mark.parametrize("acts", [True, "observe"])
async def test_a_queue_shrinks_when_connections_come_back_more_slowly(acts):
    """Who comes then turns two away, until those who wait can be served in time; observed, as many would have been."""
    db = engine(pool_size=1, max_overflow=0, guard=strict(fail_fast=acts))
    await learn(db, times=4)
    held = await db.connect()
    tasks = await queue_up(db, [], *range(3))
    await asyncio.sleep(0.05)
    tasks += await queue_up(db, [], 3)
    await asyncio.sleep(0.9)  # as if each of four holds had taken half a second: two may wait
    for number, gone in ((4, 2), (5, 4), (6, 5)):
        tasks += await queue_up(db, [], number)
        assert ledger_of(db).rejected["rejected"] + ledger_of(db).would_reject == gone
        ledger_of(db).check()
    await held.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    at_rest(db, idle=1)


@pytest.mark.parametrize("before", ["nothing", "an outage", "its connections are lost"])
async def test_connections_that_can_still_be_opened_serve_too(before):
    """A hundred at once are nothing for ten connections, though one is there and three are being opened; nor is an outage a long hold."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=9, guard=strict(max_wait=1))
    await learn(db, hold=0.05)
    if before == "its connections are lost":
        pool_of(db)._invalidate_time = 1e12
    elif before == "an outage":
        driver.connect = Gate.ERROR
        pool_of(db)._invalidate_time = 1e12
        for _ in range(20):
            await asyncio.gather(*(queue_up_and_fail(db) for _ in range(5)))
            await asyncio.sleep(0.1)
        driver.connect = Gate.OK
        pool_of(db)._invalidate_time = 0
        await asyncio.sleep(2.1)
    driver.connect, driver.delay = Gate.SLOW, 0.005
    refused = rejected(db).get("rejected", 0)
    tasks = await queue_up(db, [], *range(100), hold=0.05)
    await asyncio.gather(*tasks)
    assert rejected(db).get("rejected", 0) == refused == 0
    ledger_of(db).check()


async def queue_up_and_fail(db):
    """Ask for a connection that cannot be had."""
    with pytest.raises(DatabaseUnavailable):
        await db.connect()


async def test_a_crowd_that_is_turned_away_shares_what_it_is_told():
    """One look at the pool and one text serve all that are shed within a moment; each has its own place in the line."""
    db, held = await single()
    tasks = await queue_up(db, [], *range(8))
    await turns()
    errors = [task.exception() for task in tasks[:4]]
    assert len({id(error.snapshot) for error in errors}) == 1
    assert len({str(error) for error in errors}) == 1
    waits = [error.retry_after for error in errors]
    assert waits == sorted(set(waits))
    await held.close()
    await asyncio.gather(*tasks[4:])
    at_rest(db, idle=1)


async def test_nobody_waits_longer_than_max_wait():
    """Who is not turned away, but not served either, is told after `max_wait`, though `pool_timeout` is longer."""
    db, held = await single()
    began = elapsed()
    with pytest.raises(CheckoutTimeout) as caught:
        await db.connect()
    assert caught.value.reason == "timeout"
    assert elapsed() - began == pytest.approx(1.1)
    await held.close()
    at_rest(db, idle=1)


async def test_pool_timeout_that_is_shorter_bounds_max_wait():
    """`max_wait` is never more than `pool_timeout`; by default it is a second."""
    assert pool_of(engine(pool_timeout=0.5, guard=Guard(fail_fast=True)))._watch.gate.patience == 0.5
    assert pool_of(engine(pool_timeout=30, guard=Guard(fail_fast=True)))._watch.gate.patience == 1.0
    assert pool_of(engine(pool_timeout=None, guard=Guard(fail_fast=True)))._watch.gate.patience == 1.0
    assert pool_of(engine(pool_timeout=30, guard=Guard(fail_fast=False, max_wait=2)))._watch.gate.patience == 30
    assert pool_of(engine(pool_timeout=30))._watch.gate.patience == 30


async def test_least_important_is_turned_away_first():
    """A request turns away the oldest of the least important class, never one that is more important than itself."""
    db, held = await single()
    order, tasks = [], []
    for name, level in (("c", "critical"), ("n1", "normal"), ("s", "sheddable"), ("n2", "normal"), ("n3", "normal")):
        with priority(level):
            tasks += await queue_up(db, order, name)
    # the sheddable one may only wait an eighth: nobody less important than it waits, so that it is refused itself
    assert outcomes(tasks) == ["CheckoutRejected"]
    assert tasks[2].done()
    tasks += await queue_up(db, order, "n4")
    await turns()
    assert [task.get_name() for task in tasks if task.done()] == ["n1", "s"]
    gone = ["n1", "s"]
    for newcomers, victims in ((("c2", "c3", "c4"), []), (("c5", "c6", "c7"), ["n2", "n3", "n4"]), (("c8",), ["c"])):
        with priority("critical"):
            tasks += await queue_up(db, order, *newcomers)
        await turns()
        ledger_of(db).check()
        gone += victims
        assert sorted(task.get_name() for task in tasks if task.done()) == sorted(gone)
    await held.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["c2", "c3", "c4", "c5", "c6", "c7", "c8"]
    at_rest(db, idle=1)


async def test_turned_away_and_cancelled_in_the_same_turn():
    """A waiter that is turned away and cancelled before it runs is cancelled; nothing is lost or counted twice."""
    db, held = await single()
    order = []
    tasks = await queue_up(db, order, *range(4))
    newcomer = asyncio.create_task(db.connect().__aenter__())
    await asyncio.sleep(0)
    tasks[0].cancel()
    await turns(4)
    assert tasks[0].done()
    ledger_of(db).check()
    await held.close()
    for task in tasks[1:]:
        await task
    connection = await newcomer
    await connection.close()
    at_rest(db, idle=1)
    assert sum(rejected(db).values()) == 1


async def test_cancelled_waiter_is_not_turned_away_again():
    """One that gave up leaves its place: who comes next needs turn nobody away."""
    db, held = await single()
    order = []
    tasks = await queue_up(db, order, *range(4))
    tasks[1].cancel()
    await turns()
    tasks += await queue_up(db, order, 4)
    await turns()
    assert outcomes(tasks) == ["cancelled"]
    await held.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 2, 3, 4]
    at_rest(db, idle=1)


async def test_turning_away_and_handing_out_in_the_same_turn():
    """When a connection comes back in the turn of the newcomer, either one gets it, and none of the others is lost."""
    for first in ("close", "ask"):
        db, held = await single()
        order = []
        tasks = await queue_up(db, order, *range(4))
        if first == "close":
            held.sync_connection.close()
            tasks += await queue_up(db, order, 4)
        else:
            late = asyncio.create_task(queue_up(db, order, 4))
            await asyncio.sleep(0)
            held.sync_connection.close()
            tasks += await late
        ledger_of(db).check()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(order) + sum(rejected(db).values()) == 5
        assert order == sorted(order)
        at_rest(db, idle=1)


async def test_turning_away_when_a_wait_is_just_over():
    """A newcomer in the very turn in which the first has waited for `max_wait`: each is told one thing, once."""
    db, held = await single()
    loop, order = asyncio.get_running_loop(), []
    tasks = await queue_up(db, order, *range(4))
    deadline = loop.time() + 1.1
    more = []
    loop.call_at(deadline, lambda: more.append(asyncio.ensure_future(queue_up(db, order, 4, 5))))
    await asyncio.sleep(1.2)
    tasks += await more[0]
    ledger_of(db).check()
    assert all(task.done() for task in tasks[:4])
    await held.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    at_rest(db, idle=1)
    assert sum(rejected(db).values()) + len(order) == 6


@pytest.mark.filterwarnings(LEAK)
async def test_turning_away_while_the_collector_frees_a_slot(monkeypatch):
    """A slot that the collector frees while the oldest is taken out serves the next; who was taken out is told no."""
    driver = FakeDriver()
    db, held = await single(driver)
    slots, order = pool_of(db)._slots, []
    tasks = await queue_up(db, order, *range(4))
    trap = [held]
    trap.append(trap)
    del held
    evict = type(slots).evict

    def interrupted(slots, least):
        waiter = evict(slots, least)
        trap.clear()
        gc.collect()
        return waiter

    gc.disable()
    try:
        monkeypatch.setattr(type(slots), "evict", interrupted)
        tasks += await queue_up(db, order, 4)
        monkeypatch.undo()
    finally:
        gc.enable()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [1, 2, 3, 4]
    assert rejected(db) == {"rejected": 1}
    at_rest(db, idle=1)


def test_waiter_of_another_loop_is_turned_away_there():
    """The oldest waits in another thread's loop: it is told there, and both loops go on."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=30, guard=strict())
    waiting, done, told, now = threading.Event(), threading.Event(), [], []

    async def elsewhere():
        try:
            asking = asyncio.ensure_future(db.connect().__aenter__())
            await turns()
            waiting.set()
            await asking
        except CheckoutRejected as error:
            told.append(error.reason)
        finally:
            done.set()

    def thread():
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            loop = runner.get_loop()
            loop._now, loop.jump = now[0], lambda: None  # its time stands still
            runner.run(elsewhere())

    async def here():
        await learn(db)
        held = await db.connect()
        now.append(asyncio.get_running_loop().time())
        other = threading.Thread(target=thread)
        other.start()
        waiting.wait(5)
        tasks = await queue_up(db, [], *range(4))
        assert done.wait(5)  # time must not pass here meanwhile
        other.join(5)
        await held.close()
        await asyncio.gather(*tasks)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(here())
    assert told == ["rejected"]
    at_rest(db)


@pytest.mark.parametrize("other_references", [False, True])
async def test_who_holds_a_connection_counts_as_critical(other_references):
    """Finish what you started: a task that holds one is served before others, whatever other weak references to it there are."""
    db = engine(pool_size=2, max_overflow=0, pool_timeout=30, guard=strict(deadlock="warn"))
    await learn(db, times=128)
    order, kept = [], []

    async def twice():
        if other_references:
            kept.extend([weakref.ref(asyncio.current_task()), weakref.ref(asyncio.current_task(), lambda _: None)])
        async with db.connect():
            await asyncio.sleep(0.5)
            async with db.connect():
                order.append("second")

    held = await db.connect()
    task = asyncio.create_task(twice())
    await turns()
    tasks = await queue_up(db, order, 1, 2)
    await asyncio.sleep(0.6)
    await held.close()
    await asyncio.gather(task, *tasks)
    assert order == ["second", 1, 2]
    at_rest(db)


@pytest.mark.parametrize("before", [False, True])
async def test_other_weak_references_make_nobody_critical(before):
    """A weak reference to a task that holds nothing, with or without a callback, is no lease."""
    db, held = await single()
    kept = []
    if before:
        kept.append(weakref.ref(asyncio.current_task()))
    kept.append(weakref.ref(asyncio.current_task(), lambda _: None))
    gate, task = pool_of(db)._watch.gate, asyncio.current_task()
    assert gate.level(task) == (Priority.CRITICAL, weakref.ref(task))  # it holds one
    await held.close()
    assert gate.level(task) == (Priority.NORMAL, weakref.ref(task))
    assert gate.level(None) == (Priority.NORMAL, None)
    with priority("sheddable"):
        assert gate.level(task) == (Priority.SHEDDABLE, weakref.ref(task))


async def test_observing_turns_nobody_away(caplog):
    """By default nobody is refused; what would have been is counted, told once a minute, and shown in the snapshot."""
    told = []

    class Teller(Observer):
        def overloaded(self, overload):
            told.append(overload)

    db, held = await single(guard=Guard(max_wait=1.1, hold_warning=None, observers=[Teller()]))
    order = []
    with caplog.at_level(logging.WARNING, "sqla_poolguard"):
        tasks = await queue_up(db, order, *range(9))
        assert pool_of(db).snapshot().would_reject == 5
        await held.close()
        await asyncio.gather(*tasks)
    assert order == list(range(9))
    assert rejected(db) == {}
    assert [(fact.count, fact.acted) for fact in told] == [(1, False)]
    assert [record.message for record in caplog.records] == [
        f"pool {pool_of(db).name!r}: fail_fast=True would have turned away 1 request: a wait of 1.25 s was predicted, max_wait is 1.10 s"
    ]
    await asyncio.sleep(61)
    held = await db.connect()
    with caplog.at_level(logging.WARNING, "sqla_poolguard"):
        tasks = await queue_up(db, [], *range(9))
    await held.close()
    await asyncio.gather(*tasks)
    assert [fact.count for fact in told] == [1, 5]
    assert told[1].seconds > 60
    assert "would have turned away 5 requests in the last" in caplog.records[-1].message
    at_rest(db, idle=1)


async def test_turning_away_is_told_once_a_minute(caplog):
    """The log does not grow with the overload."""
    db, held = await single()
    with caplog.at_level(logging.WARNING, "sqla_poolguard"):
        tasks = await queue_up(db, [], *range(30))
    await held.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [record.message for record in caplog.records] == [
        f"pool {pool_of(db).name!r}: turned away 1 request: a wait of 1.25 s was predicted, max_wait is 1.10 s"
    ]


async def test_off_is_off():
    """`fail_fast=False` turns nobody away and counts nothing."""
    db, held = await single(guard=Guard(fail_fast=False, max_wait=1.1))
    order = []
    tasks = await queue_up(db, order, *range(30))
    await held.close()
    await asyncio.gather(*tasks)
    assert order == list(range(30))
    assert pool_of(db).snapshot().would_reject == 0
    assert rejected(db) == {}


@pytest.mark.parametrize("fail_fast", [True, False, "observe"])
async def test_max_waiting_bounds_the_queue_in_any_mode(fail_fast):
    """The queue is never longer, whoever asks."""
    db, held = await single(guard=Guard(fail_fast=fail_fast, max_wait=1.1, max_waiting=2))
    order = []
    tasks = await queue_up(db, order, 1, 2)
    for level in ("critical", "sheddable"):
        with priority(level), pytest.raises(CheckoutRejected) as caught:
            await db.connect()
        assert caught.value.reason == "queue_full"
    await held.close()
    await asyncio.gather(*tasks)
    assert order == [1, 2]
    at_rest(db, idle=1)


@pytest.mark.parametrize(("hold", "count"), [(0.5, 1), (0.2, 0)])
async def test_long_holds_are_warned_of_once(hold, count, caplog):
    """Where the mean hold is a good part of `max_wait` the pool says once that this cannot go well."""
    db = engine(pool_size=1, max_overflow=0, guard=strict(max_wait=1.0))
    with caplog.at_level(logging.WARNING, "sqla_poolguard"):
        for _ in range(3):
            await learn(db, hold)
            async with all_out(db, 1):
                tasks = await queue_up(db, [], 1)
            await asyncio.gather(*tasks)
    messages = [record.message for record in caplog.records]
    assert len(messages) == count
    assert all("held for 0.50 s on average, which is much against max_wait=1.0" in message for message in messages)


async def test_disposing_lets_the_waiting_be_served():
    """Who waits in a pool that is disposed of is served there; the new pool knows the holds of before, and turns away by them."""
    db, held = await single()
    order = []
    tasks = await queue_up(db, order, *range(4))
    await db.dispose()
    ledger_of(db).check()
    again = await db.connect()
    more = await queue_up(db, order, *range(10, 15))
    await turns()
    assert outcomes(more) == ["CheckoutRejected"]
    await held.close()
    await asyncio.gather(*tasks)
    await again.close()
    await asyncio.gather(*more, return_exceptions=True)
    assert order == [0, 1, 2, 3, 11, 12, 13, 14]
    at_rest(db)


@pytest.mark.parametrize("gate", [Gate.SLOW, Gate.ERROR])
async def test_connects_count_as_slots_that_are_taken(gate):
    """Where no connection is open yet nothing is known, and nobody is turned away; a connect that fails frees its slot, and who began it waits."""
    driver = FakeDriver(connect=gate)
    db = engine(driver, pool_size=1, max_overflow=0, guard=strict())
    order = []
    tasks = await queue_up(db, order, *range(3))
    driver.connect = Gate.OK
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(order) == [0, 1, 2]
    at_rest(db, idle=1)
    assert rejected(db) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_begins_anew():
    """A child knows nothing of its parent's holds and counts: it turns nobody away for them."""
    db = engine(pool_size=1, max_overflow=0, guard=strict())
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(learn(db))
    gate = pool_of(db)._watch.gate
    gate._admission.look(0.0, 1, 1, ledger_of(db).granted, 0, ledger_of(db).samples)
    assert gate._admission.pace.mean > 0
    pool_of(db)._watch.forget()
    assert gate._admission.pace.mean == 0
    assert ledger_of(db).would_reject == 0
