"""What is said, when and how often: overdue, returned, leaked. Each names the line of this file that holds."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
from doubles.driver import FakeDriver
from doubles.pools import Recorder, at_rest, ended, engine, ledger_of, pool_of
from doubles.virtual import turns
from sqlalchemy.exc import SAWarning

from sqla_poolguard import Guard
from sqla_poolguard._facts import shorten

HERE = shorten(__file__)
LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"


def line_of(function, nth=1):
    """Find the line, in a function of this file, that ends in the mark `# checkout`."""
    first = function.__code__.co_firstlineno
    with open(__file__) as source:
        lines = source.readlines()[first - 1 :]
    marked = [first + offset for offset, line in enumerate(lines) if line.rstrip().endswith("# checkout")]
    return marked[nth - 1]


def said(caplog, level=logging.WARNING):
    """Give what our own log said."""
    return [r.getMessage() for r in caplog.records if r.name == "sqla_poolguard" and r.levelno == level]


async def test_overdue_is_said_once_and_names_the_line(caplog):
    """A lease held for `hold_warning` seconds is reported exactly then, once, with file, line and task."""
    recorder = Recorder()
    db = engine(guard=Guard(name="o1", hold_warning=5, observers=(recorder,)))
    held = await db.connect()  # checkout
    await asyncio.sleep(4.75)
    assert said(caplog) == []
    await asyncio.sleep(0.5)
    line = line_of(test_overdue_is_said_once_and_names_the_line)
    (message,) = said(caplog)
    assert message.startswith("pool 'o1': connection held for 5.0 s and still out: checked out at ")
    assert f"{HERE}:{line} in test_overdue_is_said_once_and_names_the_line, task " in message
    await asyncio.sleep(60)
    assert len(said(caplog)) == 1
    (holder,) = recorder.of("overdue")
    assert (holder.held, holder.site.line, holder.overdue) == (5.0, line, True)
    await held.close()


async def test_return_after_all_is_said(caplog):
    """A lease that was reported and comes back is reported again, so that nobody hunts for a leak."""
    recorder = Recorder()
    db = engine(guard=Guard(name="o2", hold_warning=5, observers=(recorder,)))
    held = await db.connect()  # checkout
    await asyncio.sleep(12.5)
    await held.close()
    line = line_of(test_return_after_all_is_said)
    assert said(caplog)[1] == (
        f"pool 'o2': connection came back after 12.5 s (checked_in): checked out at {HERE}:{line} in "
        f"test_return_after_all_is_said, task {asyncio.current_task().get_name()!r}"
    )
    (checkout,) = recorder.of("returned")
    assert (checkout.held, checkout.site.line, str(checkout.ending)) == (12.5, line, "checked_in")


async def test_short_holds_are_not_said(caplog):
    """A lease that ends in time is never mentioned."""
    db = engine(guard=Guard(hold_warning=5))
    for _ in range(10):
        held = await db.connect()
        await asyncio.sleep(4.75)
        await held.close()
    assert said(caplog) == []
    at_rest(db, idle=1)


async def test_each_lease_is_timed_from_its_own_start(caplog):
    """A lease that begins while the timer runs for another is reported when it is itself due, at most 5 % late."""
    recorder = Recorder()
    db = engine(guard=Guard(hold_warning=4, observers=(recorder,)))
    first = await db.connect()
    await asyncio.sleep(1)
    second = await db.connect()
    await asyncio.sleep(0.125)
    third = await db.connect()
    await asyncio.sleep(20)
    assert [holder.held for holder in recorder.of("overdue")] == [4.0, 4.0, pytest.approx(4.0, rel=0.05)]
    for connection in (first, second, third):
        await connection.close()


async def test_second_lease_of_a_connection_is_reported_anew(caplog):
    """The next lease of a connection that was reported is reported in its own right."""
    db = engine(pool_size=1, guard=Guard(hold_warning=4))
    for _ in range(2):
        held = await db.connect()
        await asyncio.sleep(5)
        await held.close()
    assert [message.split(": ")[1].split(" 4")[0].split(" 5")[0] for message in said(caplog)] == [
        "connection held for",
        "connection came back after",
    ] * 2


async def test_no_warning_when_switched_off(caplog):
    """`hold_warning=None` reports nothing, however long."""
    db = engine(guard=Guard(hold_warning=None))
    held = await db.connect()
    await asyncio.sleep(86_400)
    await held.close()
    assert said(caplog) == []


async def test_idle_pool_keeps_no_timer():
    """Once nothing is out and nobody waits, no timer of the pool is left in the loop."""
    db = engine(guard=Guard(hold_warning=4))
    async with db.connect():
        pass
    await asyncio.sleep(5)
    assert pool_of(db)._watch._sweeper._timers == {}


async def leak(db):
    """Check out a connection and forget it."""
    connection = await db.connect()  # checkout
    return await connection.get_raw_connection() and None


@pytest.mark.filterwarnings(LEAK)
async def test_leak_is_said_as_an_error_and_names_the_line(caplog):
    """A connection that the garbage collector finds is reported as an error, with the line that lost it."""
    recorder = Recorder()
    driver = FakeDriver()
    db = engine(driver, guard=Guard(name="leaky", observers=(recorder,)))
    await asyncio.create_task(leak(db))
    gc.collect()
    await turns()
    (message,) = said(caplog, logging.ERROR)
    line = line_of(leak)
    assert message.startswith("pool 'leaky': connection leaked, never closed, collected after 0.0 s: checked out at ")
    assert f"{HERE}:{line} in leak" in message
    assert [fact.site.line for fact in recorder.of("leaked")] == [line]
    assert [str(fact.ending) for fact in recorder.of("ended")] == ["leaked"]
    assert driver.open_now == 0
    assert ended(db) == {"leaked": 1}
    at_rest(db, idle=0)


async def test_sqlalchemy_still_warns_of_a_leak():
    """SQLAlchemy's own warning of a leak is not swallowed."""
    db = engine()
    circle = [await db.connect()]
    circle.append(circle)
    del circle
    with pytest.warns(SAWarning, match="non-checked-in connection"):
        gc.collect()
    await turns()
    assert ended(db) == {"leaked": 1}


@pytest.mark.filterwarnings(LEAK)
async def test_overdue_lease_that_leaks_is_not_said_to_have_returned(caplog):
    """A lease that was reported and then leaked is reported as leaked, not as returned."""
    recorder = Recorder()
    db = engine(guard=Guard(hold_warning=2, observers=(recorder,)))
    held = await db.connect()
    await asyncio.sleep(3)
    del held
    gc.collect()
    await turns()
    assert [kind for kind, _ in recorder.facts if kind in {"overdue", "returned", "leaked"}] == ["overdue", "leaked"]


@pytest.mark.filterwarnings(LEAK)
async def test_leak_of_pool_and_connection_together(caplog):
    """When an engine and its connection are forgotten together the leak is still found and named."""
    driver = FakeDriver()
    db = engine(driver, guard=Guard(name="forgotten"))
    ledger = ledger_of(db)
    held = await db.connect()
    both = [db, held]
    both.append(both)
    del db, held, both
    gc.collect()
    await turns()
    gc.collect()
    assert len(said(caplog, logging.ERROR)) == 1
    assert driver.open_now == 0
    assert ledger.ended["leaked"] == 1
    ledger.check()


async def test_stack_is_said_when_asked_for(caplog):
    """With `capture="stack"` the report shows who called the line, innermost first."""

    async def inner(db):
        return await db.connect()  # checkout

    async def outer(db):
        return await inner(db)

    db = engine(guard=Guard(hold_warning=1, capture="stack"))
    held = await outer(db)
    await asyncio.sleep(2)
    (message,) = said(caplog)
    first, *callers = message.split("\n  called from ")
    assert "inner" in first
    assert "outer" in callers[0]
    assert "test_stack_is_said_when_asked_for" in callers[1]
    await held.close()


async def test_nothing_is_known_when_capture_is_off(caplog):
    """With `capture="off"` the report says that the line is not known."""
    db = engine(guard=Guard(name="blind", hold_warning=1, capture="off"))
    held = await db.connect()
    await asyncio.sleep(2)
    assert "checked out at an unknown line" in said(caplog)[0]
    await held.close()


async def test_log_records_carry_the_fact(caplog):
    """A log record has the fact as its attribute `poolguard`, for handlers that want more than text."""
    db = engine(guard=Guard(name="factual", hold_warning=1))
    held = await db.connect()
    await asyncio.sleep(2)
    await held.close()
    facts = [record.poolguard for record in caplog.records]
    assert [type(fact).__name__ for fact in facts] == ["Holder", "Checkout"]
    assert {fact.pool for fact in facts} == {"factual"}
