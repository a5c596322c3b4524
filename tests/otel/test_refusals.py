"""Waits in vain: linked to the longest holders, who are told, or to nobody whose fault it was not."""

from __future__ import annotations

import asyncio

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import engine
from doubles.virtual import turns, virtual_time
from opentelemetry.trace import StatusCode, format_span_id

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, DatabaseUnavailable, Guard, _urgency, deadline

from .traces import HOLDER, SECOND, WAITER, events, hold, names, same, short, spans, wait


async def test_timeout_is_linked_to_the_longest_holders(sdk):
    """A wait in vain is linked to the three who have held the longest, tells of each, and each is told."""
    db = engine(pool_size=4, max_overflow=0, pool_timeout=2)
    holders = []
    for number in range(4):
        holders.append(hold(sdk, db, 100, f"holder {number}"))
        await asyncio.sleep(1)
    with pytest.raises(CheckoutTimeout):
        await wait(sdk, db)
    for task in holders:
        task.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    (acquired,), (waited,) = sdk.acquired(), spans(sdk, "waiter")
    longest = [spans(sdk, f"holder {number}")[0] for number in range(3)]
    found = short(acquired.attributes)
    assert (found["outcome"], found["wait_time"], found["queue_time"], found["waiters_ahead"]) == ("timeout", 2.0, 2.0, 0)
    assert acquired.end_time - acquired.start_time == 2 * SECOND
    assert all(same(link, span) for link, span in zip(acquired.links, longest, strict=True))
    assert (found["holder.held"], found["holder.trace_id"], found["holder.span_id"]) == (6.0, *names(longest[0]))
    assert found["holder.site"] == HOLDER
    assert "verdict.cause" not in found, "this driver shows nothing on which one could rest"
    assert events(acquired)[0] == ("queue", 0.0, {"duration": 2.0})
    told = events(acquired)[1:]
    assert [(name, after, event["holder.held"], event["holder.trace_id"]) for name, after, event in told] == [
        ("longest_holder", 2.0, held, names(span)[0]) for held, span in zip((6.0, 5.0, 4.0), longest, strict=True)
    ]
    for span in longest:
        (event,), (link,) = span.events, span.links
        assert short(event.attributes) == {
            "wait_time": 2.0,
            "outcome": "timeout",
            "waiter.site": WAITER,
            "waiter.trace_id": names(waited)[0],
            "waiter.span_id": format_span_id(acquired.context.span_id),
        }
        assert same(link, acquired)
    assert spans(sdk, "holder 3")[0].events == ()


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("queue_full", {"guard": Guard(max_waiting=0)}),
        ("timeout", {"pool_timeout": 0}),
        ("deadline", {"pool_timeout": 9}),
        ("rejected", {"pool_timeout": 9, "guard": Guard(fail_fast=True, max_wait=0.2)}),
    ],
)
async def test_every_refusal_is_linked(sdk, reason, options, monkeypatch):
    """Whoever is refused is linked to the holder, whatever the reason."""
    monkeypatch.setattr(_urgency, "clock", virtual_time)
    db = engine(pool_size=1, max_overflow=0, **options)
    if reason == "rejected":  # the pool has learned how long it takes
        for _ in range(30):
            async with db.connect():
                await asyncio.sleep(1)
    holder = hold(sdk, db, 3)
    await asyncio.sleep(1)

    async def ask():
        with sdk.tracer.start_as_current_span("waiter"), deadline(0.5 if reason == "deadline" else 100):
            await db.connect()

    outcomes = await asyncio.gather(ask(), *([ask()] if reason == "rejected" else []), return_exceptions=True)
    await holder
    (held,) = spans(sdk, "holder")
    refused = [span for span in sdk.acquired() if short(span.attributes)["outcome"] == reason]
    assert refused
    assert all(isinstance(outcome, (CheckoutTimeout, CheckoutRejected)) for outcome in outcomes)
    for span in refused:
        assert same(span.links[0], held)
        assert span.status.status_code is StatusCode.ERROR
    await db.dispose()


async def test_database_unavailable(sdk):
    """While the database is down it is no holder's fault: the verdict says so, with the type of the error, and names nobody."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=5)
    with pytest.raises(DatabaseUnavailable) as caught:
        await wait(sdk, db)
    (acquired,) = sdk.acquired()
    found = short(acquired.attributes)
    assert (found["outcome"], found["verdict.cause"]) == ("unavailable", "database_unavailable")
    assert found["database_error"].endswith(type(caught.value.orig).__qualname__)
    assert acquired.links == ()
    assert acquired.status.status_code is StatusCode.ERROR
    assert acquired.status.description is None
    assert [name for name, _, _ in events(acquired)] == ["connect", "queue"]
    assert found["wait_time"] == (acquired.end_time - acquired.start_time) / SECOND
    await db.dispose()


async def test_timeout_while_connecting_blames_no_holder(sdk):
    """Who was let in and then waited in vain for the connect waited for no holder."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0, pool_timeout=2, guard=Guard(breaker=False))
    async with db.connect():
        driver.connect = Gate.NEVER
        with pytest.raises(CheckoutTimeout):
            await wait(sdk, db)
    (acquired,) = sdk.acquired()
    assert events(acquired) == [("connect", 0.0, {"duration": 2.0})]
    assert acquired.links == ()


async def test_cancelled_wait_names_the_holder(sdk):
    """A wait that is cancelled has been for the holder, who is told."""
    db = engine(pool_size=1, max_overflow=0)
    holder = hold(sdk, db, 3)
    await turns()
    waiter = wait(sdk, db)
    await asyncio.sleep(1)
    waiter.cancel()
    await asyncio.gather(holder, waiter, return_exceptions=True)
    (held,), (acquired,) = spans(sdk, "holder"), sdk.acquired()
    assert short(acquired.attributes)["outcome"] == "cancelled"
    assert "verdict.cause" not in short(acquired.attributes)
    assert same(acquired.links[0], held)
    assert short(held.events[0].attributes)["outcome"] == "cancelled"
