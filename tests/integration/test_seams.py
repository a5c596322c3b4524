"""
The seam table, executed: for each way of ending, which events SQLAlchemy fires and which of the pool's doors it uses.

GuardedPool stands on this. A SQLAlchemy that moves a seam fails the test of that row.
"""

from __future__ import annotations

import asyncio
import gc

import pytest
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import URL
from doubles.virtual import until
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError as SATimeoutError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from sqla_poolguard import Guard, GuardedPool

LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"
EVENTS = ("checkout", "checkin", "invalidate", "soft_invalidate", "close", "detach", "close_detached")


class Seams:
    """An engine that writes down what SQLAlchemy does to its pool: `in` and `out` are the doors, the others are events."""

    def __init__(self, kind, **options):
        self.seen = seen = []
        self.driver = FakeDriver()

        class Watched(kind):
            def connect(self):
                seen.append("in")
                try:
                    return super().connect()
                except BaseException:
                    seen.append("in raises")
                    raise

            def _do_return_conn(self, record):
                seen.append("out")
                super()._do_return_conn(record)

        options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 20} | options
        if issubclass(kind, GuardedPool):
            options["guard"] = Guard(breaker=False)  # which would have it tried again
        self.engine = create_async_engine(URL, creator=self.driver.open, _initialize=False, poolclass=Watched, **options)
        pool = self.engine.sync_engine.pool
        for name in EVENTS:
            event.listen(pool, name, self.listener(name))
        event.listen(pool, "reset", self.reset)

    def listener(self, name):
        """Make a listener that writes down its event."""

        def listen(*_):
            self.seen.append(name)

        return listen

    def reset(self, _connection, _record, state):
        """Write down a reset, and whether it is the garbage collector's."""
        by_collector = state.terminate_only and not state.asyncio_safe
        self.seen.append("reset by the collector" if by_collector else "reset")

    def since(self):
        """Give what was seen since the last call."""
        seen, self.seen[:] = list(self.seen), []
        return seen


@pytest.fixture(params=[AsyncAdaptedQueuePool, GuardedPool], ids=["stock", "guarded"])
def kind(request):
    """Give the stock pool, whose seams these are, and ours, which must look the same from outside."""
    return request.param


async def test_normal(kind):
    """In; checkout | reset, checkin; out."""
    seams = Seams(kind)
    connection = await seams.engine.connect()
    assert seams.since() == ["in", "checkout"]
    await connection.close()
    assert seams.since() == ["reset", "checkin", "out"]


async def test_above_pool_size(kind):
    """In; reset, checkin, and only behind the door out the close."""
    seams = Seams(kind, max_overflow=1)
    one, two = await seams.engine.connect(), await seams.engine.connect()
    await one.close()
    seams.since()
    await two.close()
    assert seams.since() == ["reset", "checkin", "out", "close"]


async def test_timeout_in_the_queue(kind):
    """No event at all: only the door in learns of it."""
    seams = Seams(kind, pool_timeout=0.25)
    connection = await seams.engine.connect()
    seams.since()
    with pytest.raises(SATimeoutError):
        await seams.engine.connect()
    assert seams.since() == ["in", "in raises"]
    await connection.close()


async def test_cancelled_while_waiting(kind):
    """No event at all: only the door in learns of it."""
    seams = Seams(kind, pool_timeout=30)
    connection = await seams.engine.connect()
    seams.since()
    asking = asyncio.create_task(seams.engine.connect().start())
    await until(lambda: seams.seen == ["in"])
    asking.cancel()
    await asyncio.wait([asking])
    assert seams.since() == ["in", "in raises"]
    await connection.close()


async def test_connect_fails(kind):
    """No event: the door in raises, and nothing passes the door out, for there was no record."""
    seams = Seams(kind)
    seams.driver.connect = Gate.ERROR
    with pytest.raises(OSError, match="refuses"):
        await seams.engine.connect()
    assert seams.since() == ["in", "in raises"]


async def test_ping_fails_and_reconnect_fails(kind):
    """Invalidate, close, checkin; the record passes the door out before any lease exists."""
    seams = Seams(kind, pool_pre_ping=True)
    await (await seams.engine.connect()).close()
    seams.since()
    seams.driver.connect = seams.driver.ping = Gate.ERROR
    with pytest.raises(OSError, match="refuses"):
        await seams.engine.connect()
    assert seams.since() == ["in", "invalidate", "close", "checkin", "out", "in raises"]


async def test_invalidate(kind):
    """Invalidate, close, checkin; out once, and closing later does nothing."""
    seams = Seams(kind)
    connection = await seams.engine.connect()
    seams.since()
    await connection.invalidate()
    await connection.close()
    assert seams.since() == ["invalidate", "close", "checkin", "out"]


async def test_soft_invalidate(kind):
    """Soft_invalidate; then as a normal return, and a close in the next checkout."""
    seams = Seams(kind)
    connection = await seams.engine.connect()
    raw = await connection.get_raw_connection()
    seams.since()
    await greenlet_spawn(raw.invalidate, soft=True)
    assert seams.since() == ["soft_invalidate"]
    await connection.close()
    assert seams.since() == ["reset", "checkin", "out"]
    await (await seams.engine.connect()).close()
    assert seams.since() == ["in", "close", "checkout", "reset", "checkin", "out"]


async def test_detach(kind):
    """Out at the moment of detaching, before the event; later reset and close_detached, and no door."""
    seams = Seams(kind)
    connection = await seams.engine.connect()
    raw = await connection.get_raw_connection()
    seams.since()
    raw.detach()
    assert seams.since() == ["out", "detach"]
    await connection.close()
    assert seams.since() == ["reset", "close_detached"]


@pytest.mark.filterwarnings(LEAK)
async def test_leak(kind):
    """Reset by the collector, out, detach, close_detached; no checkin."""
    seams = Seams(kind)
    connection = await seams.engine.connect()
    seams.since()
    del connection
    gc.collect()
    assert seams.since() == ["reset by the collector", "out", "detach", "close_detached"]


async def test_closed_after_dispose(kind):
    """As a normal return, through the door of the old pool; ours closes the connection behind it."""
    seams = Seams(kind)
    connection = await seams.engine.connect()
    await seams.engine.dispose()
    seams.since()
    await connection.close()
    closed = ["close"] if issubclass(kind, GuardedPool) else []
    assert seams.since() == ["reset", "checkin", "out", *closed]


async def test_reset_fails(kind):
    """A rollback that fails: invalidate and close before the checkin."""
    seams = Seams(kind)
    connection = await seams.engine.connect()
    seams.since()
    seams.driver.rollback = Gate.ERROR
    await connection.close()
    assert seams.since() == ["reset", "invalidate", "close", "checkin", "out"]
