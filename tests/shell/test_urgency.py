"""`deadline()` and `priority()`: who inherits them, what they bound, and in which order they have waiters served."""

from __future__ import annotations

import asyncio

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, at_rest, engine, ledger_of, queue_up, rejected
from doubles.virtual import elapsed, turns, virtual_time

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, Guard, _urgency, deadline, priority


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch):
    """Keep deadlines on the loop's clock, as the pools do."""
    monkeypatch.setattr(_urgency, "clock", virtual_time)


async def refused(db):
    """Ask in vain; give the error, and when it came."""
    with pytest.raises(CheckoutTimeout) as caught:
        await db.connect()
    return caught.value, elapsed()


async def test_deadline_ends_a_wait():
    """Nobody waits past it; the reason says whose deadline it was."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=3)
    async with all_out(db, 1):
        with deadline(0.5):
            error, at = await refused(db)
        assert (error.reason, error.waited, at) == ("deadline", 0.5, 0.5)
        error, at = await refused(db)
        assert (error.reason, at) == ("timeout", 3.5)
    at_rest(db, idle=1)
    assert rejected(db) == {"deadline": 1, "timeout": 1}


async def test_it_runs_from_where_the_block_begins():
    """What is done before the checkout counts."""
    db = engine(pool_size=1, max_overflow=0)
    async with all_out(db, 1):
        with deadline(2):
            await asyncio.sleep(1.5)
            error, at = await refused(db)
    assert (error.waited, at) == (0.5, 2.0)


@pytest.mark.parametrize(("outer", "inner"), [(1.0, 5.0), (5.0, 1.0)])
async def test_the_nearest_of_nested_ones_counts(outer, inner):
    """An inner block cannot give more time than there is, and leaves the outer one as it was."""
    db = engine(pool_size=1, max_overflow=0)
    async with all_out(db, 1):
        with deadline(outer):
            with deadline(inner):
                assert (await refused(db))[1] == 1.0
            assert (await refused(db))[1] == outer


async def test_pool_timeout_that_is_nearer_is_a_timeout():
    """A deadline further away than `pool_timeout` changes nothing."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    async with all_out(db, 1):
        with deadline(5):
            error, at = await refused(db)
    assert (error.reason, at) == ("timeout", 1.0)


async def test_tasks_inherit_it():
    """A task created inside has the deadline; one created outside has not."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=4)
    async with all_out(db, 1):
        outside = asyncio.create_task(refused(db))
        with deadline(1):
            inside = asyncio.create_task(refused(db))
        assert (await inside)[1] == 1.0
        assert (await outside)[1] == 4.0


async def test_deadline_that_has_passed_refuses_only_who_would_have_to_wait():
    """A connection that is there is handed out; who would queue is told at once, and never joins the queue."""
    db = engine(pool_size=1, max_overflow=0)
    async with all_out(db, 1):
        pass
    with deadline(0):
        await asyncio.sleep(1)
        async with db.connect():
            error, at = await refused(db)
        assert (error.reason, error.waited, at) == ("deadline", 0.0, 1.0)
    at_rest(db, idle=1)
    assert rejected(db) == {"deadline": 1}


@pytest.mark.parametrize("pool_timeout", [3, 0, None])
@pytest.mark.parametrize("step", ["connect", "ping"])
async def test_it_bounds_connect_and_ping(step, pool_timeout):
    """Opening and pinging end with the deadline, whatever `pool_timeout` says; no slot is lost."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=pool_timeout, pool_pre_ping=True)
    if step == "ping":
        async with db.connect():
            pass
    setattr(driver, step, Gate.NEVER)
    with deadline(0.5):
        error, at = await refused(db)
    assert (error.reason, at) == ("deadline", 0.5)
    ledger_of(db).check()
    setattr(driver, step, Gate.OK)
    async with db.connect():
        pass
    at_rest(db, idle=1)


async def test_deadlines_in_any_order():
    """A waiter that is due before those in front of it is told in time, and they in theirs."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=4)
    told = []

    async def ask(seconds):
        with deadline(seconds):
            told.append((seconds, (await refused(db))[1]))
        ledger_of(db).check()

    async with all_out(db, 1):
        await asyncio.gather(*(ask(seconds) for seconds in (3, 1, 2, 9, 0.5, 2)))
    assert told == [(0.5, 0.5), (1, 1.0), (2, 2.0), (2, 2.0), (3, 3.0), (9, 4.0)]
    at_rest(db, idle=1)


async def test_waiter_with_a_deadline_is_served_in_its_turn():
    """A near deadline buys no better place, and one that is kept leaves nothing behind."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=5)
    held, order = await db.connect(), []
    first = await queue_up(db, order, "first")
    with deadline(2):
        second = await queue_up(db, order, "second")
    await asyncio.sleep(1)
    await held.close()
    await asyncio.gather(*first, *second)
    assert order == ["first", "second"]
    await asyncio.sleep(10)
    at_rest(db, idle=1)
    assert rejected(db) == {}


async def test_important_ones_are_served_first():
    """Critical before normal before sheddable; in each class, who came first."""
    db = engine(pool_size=1, max_overflow=0)
    held, order, tasks = await db.connect(), [], []
    for number in range(2):
        for level in ("sheddable", "normal", "critical"):
            with priority(level):
                tasks += await queue_up(db, order, f"{level} {number}")
            ledger_of(db).check()
    await held.close()
    await asyncio.gather(*tasks)
    assert order == ["critical 0", "critical 1", "normal 0", "normal 1", "sheddable 0", "sheddable 1"]
    at_rest(db, idle=1)


async def test_innermost_priority_counts():
    """A block inside may raise or lower it, and leaves the outer one as it was."""
    db = engine(pool_size=1, max_overflow=0)
    held, order, tasks = await db.connect(), [], []
    with priority("critical"):
        with priority("sheddable"):
            tasks += await queue_up(db, order, "inner")
        tasks += await queue_up(db, order, "outer")
    tasks += await queue_up(db, order, "none")
    await held.close()
    await asyncio.gather(*tasks)
    assert order == ["outer", "none", "inner"]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), True, "1", None])
def test_wrong_deadlines(seconds):
    """Only a number of seconds is a deadline."""
    with pytest.raises(ValueError, match="not allowed; allowed: a number of seconds, 0 or more"):
        deadline(seconds)


@pytest.mark.parametrize("level", ["high", "", None, 0, ["critical"]])
def test_wrong_priorities(level):
    """There are three."""
    with pytest.raises(ValueError, match="allowed: 'critical', 'normal' or 'sheddable'"):
        priority(level)


async def test_block_can_be_entered_twice():
    """One object serves for nested and for repeated blocks; each counts from where it begins."""
    db = engine(pool_size=1, max_overflow=0)
    limit = deadline(1)
    async with all_out(db, 1):
        with limit, limit:
            assert (await refused(db))[1] == 1.0
        with limit:
            assert (await refused(db))[1] == 2.0


async def test_generator_that_is_closed_elsewhere():
    """An async generator that ends in another context than it began in raises nothing."""

    async def lines():
        with deadline(1), priority("critical"):
            yield 1

    generator = lines()
    await asyncio.create_task(generator.__anext__())
    await asyncio.create_task(generator.aclose())
    assert _urgency.due() == float("inf")


async def test_cancelling_inside_a_deadline_is_a_cancellation():
    """A task that is cancelled while it waits under a deadline is cancelled, and nothing is left in the queue."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(max_waiting=1))
    async with all_out(db, 1):
        with deadline(5):
            tasks = await queue_up(db, [], "gone")
        tasks[0].cancel()
        await turns()
        assert tasks[0].cancelled()
        with deadline(1):
            assert (await refused(db))[1] == 1.0
    at_rest(db, idle=1)
    assert rejected(db) == {"cancelled": 1, "deadline": 1}


async def test_deadline_and_max_waiting():
    """A full queue says so, deadline or not."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(max_waiting=0))
    async with all_out(db, 1):
        with deadline(5), pytest.raises(CheckoutRejected) as caught:
            await db.connect()
    assert caught.value.reason == "queue_full"
