"""Ten thousand checkouts in a seeded storm; both laws and the limit are checked after every step and every turn of the loop."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest
from doubles.driver import FakeDriver, greenlet_spawn
from doubles.pools import all_out, at_rest, engine, ledger_of, pool_of
from doubles.storm import Storm, seed

from sqla_poolguard import Guard, Reason

pytestmark = [
    pytest.mark.storm,
    pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"),
]


OVER = 3.0
"""Seconds after which a connect is tried again, whatever has failed in the storm: more than the longest pause between two."""


class RoughDriver(FakeDriver):
    """A driver at sea: every step may take a while or fail."""

    def __init__(self, rnd):
        super().__init__()
        self.rnd = rnd
        self.calm = False

    async def through(self, step):
        """Pass, or not."""
        self.begun[step] += 1
        if self.calm:
            return
        await asyncio.sleep(self.rnd.choice((0.0, 0.0, 0.0009765625)))
        if self.rnd.random() < 0.05:
            message = f"the sea is rough: {step}"
            raise OSError(message)


@pytest.fixture(autouse=True)
def quiet():
    """Keep the log of thousands of failures out of the report."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("options", "pre_ping", "collector"),
    [
        ({"breaker": False}, False, False),
        ({}, False, False),
        ({"fail_fast": True, "connect_limit": 1}, False, False),
        ({}, True, False),
        ({"overflow_linger": 0.0078125, "ping_after": 0.001953125}, False, False),
        ({}, False, True),
    ],
    ids=["plain", "breaker", "fail-fast", "pre-ping", "linger", "collector"],
)
async def test_storm(options, pre_ping, collector):
    """Under any mix of cancel, timeout, invalidate, detach, leak and failure: laws and limit hold, and all slots come back."""
    rnd = random.Random(seed())
    driver = RoughDriver(rnd)
    guard = Guard(hold_warning=0.001953125, capture="off", **options)
    db = engine(driver, pool_size=3, max_overflow=3, pool_timeout=0.00390625, pool_pre_ping=pre_ping, guard=guard)
    ledger = ledger_of(db)

    def check():
        ledger.check()
        assert ledger.waiting >= 0
        assert driver.live <= 6, f"{driver.live} connections live, 6 allowed"

    asyncio.get_running_loop().after_turn = check
    storm = Storm(db, rnd, check, collector_at_any_moment=collector)
    await storm.run(10_000, meanwhile=lambda: greenlet_spawn(pool_of(db).dispose))
    assert ledger.requested <= 10_000, "a task that is cancelled before it runs asks for nothing"
    assert ledger.requested > 9_000
    assert ledger.granted == storm.seen["granted"]
    assert ledger.ended["leaked"] == storm.seen["leaked"] > 20
    assert ledger.ended["detached"] == storm.seen["detached"] > 20
    for reason in (
        Reason.TIMEOUT,
        Reason.CANCELLED,
        Reason.CONNECT_FAILED if options.get("breaker") is False else Reason.UNAVAILABLE,
    ):
        assert ledger.rejected[reason] > 0, reason
    assert ledger.ended["invalidated"] > 100
    at_rest(db)
    assert driver.live == pool_of(db).checkedin()
    driver.calm = True
    await asyncio.sleep(OVER)
    async with all_out(db, 6):
        assert pool_of(db).checkedout() == 6
    await asyncio.sleep(1)
    at_rest(db, idle=3)


async def test_storm_with_disposals():
    """While the engine is disposed of again and again every pool keeps its laws, and at the end no old one has anything open."""
    rnd = random.Random(seed())
    driver = RoughDriver(rnd)
    db = engine(driver, pool_size=3, max_overflow=3, pool_timeout=0.03125, guard=Guard(capture="off"))
    ledger = ledger_of(db)
    asyncio.get_running_loop().after_turn = ledger.check
    storm = Storm(db, rnd, ledger.check, cancelled=0.1)
    await storm.run(3_000, meanwhile=db.dispose)
    assert ledger.granted == storm.seen["granted"]
    at_rest(db)
    assert driver.live == pool_of(db).checkedin()
    driver.calm = True
    await asyncio.sleep(OVER)
    async with all_out(db, 6):
        pass
    at_rest(db, idle=3)


@pytest.mark.parametrize(
    "options", [{}, {"overflow_linger": 0.0078125}, {"fail_fast": True, "connect_limit": 1}], ids=["plain", "linger", "fail-fast"]
)
async def test_storm_with_resizes(options):
    """While the size changes all the time, the laws hold at every step, and no slot is taken while as many are as may be."""
    rnd = random.Random(seed())
    driver = RoughDriver(rnd)
    db = engine(driver, pool_size=3, max_overflow=3, pool_timeout=0.03125, guard=Guard(capture="off", **options))
    ledger, pool = ledger_of(db), pool_of(db)
    sizes = []
    before = 0

    def check():
        nonlocal before
        ledger.check()
        slots = pool._slots
        assert driver.live <= slots.taken <= max(slots.limit, before), f"{driver.live} live, {slots!r}, {before} taken before"
        before = slots.taken

    async def resize():
        sizes.append((rnd.choice((0, 1, 1, 2, 3, 5)), rnd.choice((-1, 0, 0, 1, 3))))
        check()
        pool.resize(*sizes[-1])
        check()

    asyncio.get_running_loop().after_turn = check
    storm = Storm(db, rnd, check, cancelled=0.15)
    await storm.run(6_000, meanwhile=resize)
    assert len(sizes) > 50
    assert ledger.granted == storm.seen["granted"]
    assert ledger.ended["leaked"] == storm.seen["leaked"] > 10
    at_rest(db)
    assert driver.live == pool.checkedin()
    driver.calm = True
    await asyncio.sleep(OVER)
    pool.resize(2, 2)
    async with all_out(db, 4):
        assert pool.checkedout() == 4
    await asyncio.sleep(1)
    at_rest(db, idle=2)
