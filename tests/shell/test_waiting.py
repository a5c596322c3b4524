"""Waiting for a connection: exact times, order, deadline. The driver is fake and the time virtual."""

from __future__ import annotations

import asyncio

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, at_rest, engine, ledger_of, pool_of, queue_up, rejected
from doubles.virtual import elapsed, turns
from sqlalchemy import event

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, Guard


async def test_timeout_comes_exactly_when_pool_timeout_has_passed():
    """A waiter gets its CheckoutTimeout after `pool_timeout` seconds, not a moment sooner or later."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=3)
    async with all_out(db, 1):
        with pytest.raises(CheckoutTimeout) as caught:
            await db.connect()
        assert elapsed() == 3.0
        assert caught.value.waited == 3.0
    at_rest(db, idle=1)
    assert rejected(db) == {"timeout": 1}


async def test_each_waiter_has_its_own_deadline():
    """Waiters that came at different times are turned away at different times, though one timer serves them all."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=2)
    told = []

    async def ask(delay):
        await asyncio.sleep(delay)
        with pytest.raises(CheckoutTimeout):
            await db.connect()
        told.append((delay, elapsed()))

    async with all_out(db, 1):
        await asyncio.gather(*(ask(delay) for delay in (0.0, 0.25, 1.5, 2.5)))
    assert told == [(0.0, 2.0), (0.25, 2.25), (1.5, 3.5), (2.5, 4.5)]
    at_rest(db, idle=1)


async def test_connection_goes_to_the_waiter_in_the_turn_it_comes_back():
    """A waiter is served the moment a connection comes back; it does not poll."""
    db = engine(pool_size=1, max_overflow=0)
    held = await db.connect()
    order = []
    tasks = await queue_up(db, order, "first")
    await asyncio.sleep(1.25)
    await held.close()
    await asyncio.gather(*tasks)
    assert order == ["first"]
    assert elapsed() == 1.25


async def test_waiters_are_served_in_the_order_in_which_they_came():
    """Fifty waiters on two connections are served first come, first served."""
    db = engine(pool_size=2, max_overflow=0, pool_timeout=None)
    order: list[int] = []
    async with all_out(db, 2):
        tasks = await queue_up(db, order, *range(50), hold=0.5)
    await asyncio.gather(*tasks)
    assert order == list(range(50))
    at_rest(db, idle=2)


async def test_newcomer_does_not_overtake_a_waiter():
    """Who gives a connection back and asks again at once queues behind those who wait already."""
    db = engine(pool_size=1, max_overflow=0)
    order: list[str] = []
    held = await db.connect()
    tasks = await queue_up(db, order, "old")
    await held.close()
    async with db.connect():
        order.append("greedy")
    await asyncio.gather(*tasks)
    assert order == ["old", "greedy"]


async def test_hog_does_not_starve_a_waiter():
    """A task that closes and reopens in a tight loop cannot keep the others out."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    served = dict.fromkeys(range(10), 0)

    async def hog(name):
        for _ in range(20):
            connection = await db.connect()
            served[name] += 1
            await asyncio.sleep(0)
            await connection.close()

    await asyncio.gather(*map(hog, served))
    assert set(served.values()) == {20}
    at_rest(db, idle=1)


async def test_freed_slot_is_handed_on():
    """A waiter gets the slot of an invalidated connection, and opens its own in it."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0)
    order: list[str] = []
    held = await db.connect()
    tasks = await queue_up(db, order, "next")
    await held.invalidate()
    await held.close()
    await asyncio.gather(*tasks)
    assert order == ["next"]
    assert (driver.opened, driver.most, elapsed()) == (2, 1, 0.0)
    at_rest(db, idle=1)


async def test_failed_connect_wakes_the_next():
    """Without a breaker every waiter learns the real error, one after the other, long before the timeout."""
    driver = FakeDriver(connect=Gate.SLOW)
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=30, guard=Guard(breaker=False))

    async def ask():
        with pytest.raises(OSError, match="refuses to connect"):
            await db.connect()
        return elapsed()

    async def fail():
        await asyncio.sleep(driver.delay)
        message = "refuses to connect"
        raise OSError(message)

    driver.through = lambda step: fail()
    assert await asyncio.gather(*(ask() for _ in range(4))) == [0.25, 0.5, 0.75, 1.0]
    at_rest(db, idle=0)
    assert rejected(db) == {"connect_failed": 4}


async def test_overflow_connection_is_not_closed_while_one_waits():
    """Connections above pool_size go to waiters; they are closed only when nobody waits."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=4)
    order: list[int] = []
    out = [await db.connect() for _ in range(5)]
    tasks = await queue_up(db, order, *range(10), hold=1.0)
    await asyncio.gather(*(connection.close() for connection in out))
    await turns()
    assert (driver.opened, driver.open_now) == (5, 5)
    await asyncio.gather(*tasks)
    assert order == list(range(10))
    assert (driver.opened, driver.open_now) == (5, 1)
    at_rest(db, idle=1)


async def test_timeout_covers_the_connect():
    """A connect that takes longer than `pool_timeout` is given up at the deadline."""
    driver = FakeDriver(connect=Gate.NEVER)
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=0.5)
    with pytest.raises(CheckoutTimeout) as caught:
        await db.connect()
    assert elapsed() == caught.value.waited == 0.5
    assert driver.connecting == 0
    at_rest(db, idle=0)


async def test_timeout_covers_wait_and_connect_together():
    """Who waited 0.5 s for a slot has 0.25 s left of its 0.75 s to connect in."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=0.75)
    held = await db.connect()
    driver.connect = Gate.NEVER
    asking = asyncio.create_task(db.connect().start())
    await asyncio.sleep(0.5)
    await held.invalidate()
    await held.close()
    with pytest.raises(CheckoutTimeout):
        await asking
    assert elapsed() == 0.75
    assert rejected(db) == {"timeout": 1}
    at_rest(db, idle=0)


async def test_timeout_covers_the_ping():
    """A ping that never answers is given up at the deadline, and its connection closed."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=0.5, pool_pre_ping=True)
    await (await db.connect()).close()
    driver.ping = Gate.NEVER
    with pytest.raises(CheckoutTimeout) as caught:
        await db.connect()
    assert elapsed() == caught.value.waited == 0.5
    assert driver.open_now == 0
    at_rest(db, idle=0)


async def test_timeout_of_nought_does_not_wait_but_connects():
    """`pool_timeout=0`: a free slot is used, however long the connect takes; an exhausted pool says no at once."""
    driver = FakeDriver(connect=Gate.SLOW)
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=0)
    held = await db.connect()
    assert elapsed() == 0.25
    with pytest.raises(CheckoutTimeout) as caught:
        await db.connect()
    assert elapsed() == 0.25
    assert caught.value.waited == 0.0
    await held.close()
    at_rest(db, idle=1)


async def test_timeout_of_none_waits_for_ever():
    """`pool_timeout=None`: a waiter waits as long as it takes, and no timer is set for it."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=None, guard=Guard(hold_warning=None))
    held = await db.connect()
    order: list[str] = []
    tasks = await queue_up(db, order, "patient")
    await asyncio.sleep(86_400)
    await held.close()
    await asyncio.gather(*tasks)
    assert order == ["patient"]
    assert elapsed() == 86_400
    at_rest(db, idle=1)


async def test_full_queue_rejects_at_once():
    """With `max_waiting` waiters queued the next request is rejected without waiting; the others are not touched."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=3, guard=Guard(max_waiting=2))
    held = await db.connect()
    order: list[int] = []
    tasks = await queue_up(db, order, 1, 2)
    with pytest.raises(CheckoutRejected) as caught:
        await db.connect()
    assert caught.value.reason == "queue_full"
    assert (caught.value.waited, elapsed()) == (0.0, 0.0)
    await held.close()
    await asyncio.gather(*tasks)
    assert order == [1, 2]
    at_rest(db, idle=1)
    assert rejected(db) == {"queue_full": 1}


async def test_waiter_that_gave_up_frees_its_place_in_the_queue():
    """A cancelled waiter does not count towards `max_waiting`."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(max_waiting=1))
    held = await db.connect()
    order: list[str] = []
    (gone,) = await queue_up(db, order, "gone")
    gone.cancel()
    await turns()
    tasks = await queue_up(db, order, "taken in")
    await held.close()
    await asyncio.gather(*tasks)
    assert order == ["taken in"]


async def test_max_waiting_of_nought_allows_no_queue():
    """`max_waiting=0` still lets a request open a connection in a free slot."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(max_waiting=0))
    async with all_out(db, 1):
        with pytest.raises(CheckoutRejected):
            await db.connect()
    at_rest(db, idle=1)


@pytest.mark.parametrize(("lifo", "number"), [(False, 1), (True, 2)])
async def test_idle_connections_are_handed_out_as_asked(lifo, number):
    """The one that came back first is next; with `pool_use_lifo` the one that came back last."""
    db = engine(pool_size=2, max_overflow=0, pool_use_lifo=lifo)
    async with all_out(db, 2):
        pass
    async with db.connect() as connection:
        raw = await connection.get_raw_connection()
        assert raw.dbapi_connection.number == number


async def test_pool_without_limit_never_waits():
    """`pool_size=0` means no limit, as in SQLAlchemy."""
    driver = FakeDriver()
    db = engine(driver, pool_size=0)
    async with all_out(db, 40):
        assert driver.open_now == 40
        assert ledger_of(db).waiting == 0
    assert driver.open_now == 40
    assert pool_of(db).snapshot().limit is None
    at_rest(db, idle=40)


async def test_what_fails_between_the_queue_and_the_use_gives_the_connection_back():
    """Whatever is raised there, by a figure that somebody set on the finished pool, say: the slot is not lost, nor is its holder remembered."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=3)
    held = await db.connect()
    waiting = asyncio.create_task(db.connect().start())
    await turns()
    pool_of(db)._recycle = None
    await held.close()
    with pytest.raises(TypeError):
        await waiting
    pool_of(db)._recycle = -1
    at_rest(db)
    async with db.connect():
        pass
    at_rest(db, idle=1)


async def test_a_listener_that_fails_after_the_queue_leaves_no_holder_behind():
    """Who holds a connection next is named, not who waited for it in vain."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=3)
    held = await db.connect()
    (record,) = pool_of(db)._slots.records

    def refuse(*_):
        raise LookupError

    waiting = asyncio.create_task(db.connect().start(), name="in vain")
    await turns()
    event.listen(db.sync_engine, "checkout", refuse)
    await held.close()
    with pytest.raises(LookupError):
        await waiting
    event.remove(db.sync_engine, "checkout", refuse)
    assert (record.lease.waiter, record.lease.course) == (None, None)
    assert pool_of(db)._watch.trail.courses == {}
    asyncio.current_task().set_name("next")
    async with db.connect():
        assert [holder.task for holder in pool_of(db).snapshot().holders] == ["next"]
    at_rest(db, idle=1)
