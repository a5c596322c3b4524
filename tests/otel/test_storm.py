"""After a storm of everything that can happen, two readers tell what the ledger tells, to the last digit."""

from __future__ import annotations

import asyncio
import gc
import math
import random

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import engine, ledger_of, pool_of
from doubles.virtual import turns
from sqlalchemy.exc import DBAPIError

from sqla_poolguard import CheckoutError, Guard, Observer, _ledger
from sqla_poolguard._facts import Ending, Reason

CHECKOUTS = 3000
REFUSALS = {Reason.TIMEOUT, Reason.CANCELLED, Reason.CONNECT_FAILED}


class Truth(Observer):
    """Sums up what happens, on the hot path, as no one should in earnest."""

    def __init__(self):
        self.waited_sum, self.held_sum, self.created_sum = [], [], []

    def ended(self, checkout):
        """Add up."""
        self.waited_sum.append(checkout.waited)
        self.held_sum.append(checkout.held)

    def opened(self, opened):
        """Add up."""
        self.created_sum.append(opened.create_time)


async def one(db, driver, chance):
    """Check out once, and end it somehow."""
    await asyncio.sleep(chance.uniform(0, 60))
    if chance.random() < 0.1:
        asyncio.get_running_loop().call_later(chance.uniform(0, 0.5), asyncio.current_task().cancel)
    driver.connect = chance.choices([Gate.OK, Gate.SLOW, Gate.ERROR], [6, 3, 1])[0]
    try:
        connection = await db.connect()
    except (CheckoutError, DBAPIError, OSError):
        return
    ending = chance.choices(["close", "invalidate", "detach", "leak"], [20, 1, 1, 1])[0]
    try:
        await asyncio.sleep(chance.expovariate(10))
    except asyncio.CancelledError:
        ending = "close"
    if ending == "leak":
        return
    if ending == "invalidate":
        await connection.invalidate()
    if ending == "detach":
        raw = await connection.get_raw_connection()
        raw.driver_connection.outside = True
        raw.detach()
    await connection.close()


def check(sdk, db, truth, deltas):
    """Compare both readers with the ledger and with the truth."""
    cumulative, delta = sdk.readers
    ledger, name = ledger_of(db), pool_of(db).name
    values = cumulative.values(name)
    ended = sum(ledger.ended.values())
    for metric, expected in (
        ("wait_time", truth.waited_sum),
        ("use_time", truth.held_sum),
        ("create_time", truth.created_sum),
    ):
        assert values[metric] == (len(expected), pytest.approx(math.fsum(expected)))
    assert values["wait_time"][0] == values["use_time"][0] == ended
    assert values["create_time"][0] == ledger.opened
    assert values.get("timeouts", 0) == ledger.rejected[Reason.TIMEOUT]
    assert values["count used"] == len(ledger.leases()) == ledger.granted - ended
    assert values["count idle"] == sum(len(slots.idle) for slots in ledger.pools())
    assert values["pending_requests"] == ledger.waiting
    for metric, value in delta.values(name).items():
        if isinstance(value, tuple):
            deltas[metric] = deltas.get(metric, 0) + value[0]
        elif metric == "timeouts":
            deltas[metric] = deltas.get(metric, 0) + value
    for metric in ("wait_time", "use_time", "create_time", "timeouts"):
        total = values.get(metric, 0)
        assert deltas.get(metric, 0) == (total[0] if isinstance(total, tuple) else total)


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("seed", range(3))
async def test_metrics_equal_the_ledger(cumulative_and_delta, monkeypatch, seed):
    """Counts and sums are those of the ledger, in the middle of the storm and after it, over disposals and spills."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 64)
    chance = random.Random(seed)
    truth, deltas, driver = Truth(), {}, FakeDriver(delay=0.3)
    guard = Guard(name="storm", hold_warning=None, breaker=False, observers=(truth,))
    db = engine(driver, pool_size=3, max_overflow=3, pool_timeout=0.4, guard=guard)
    tasks = [asyncio.create_task(one(db, driver, chance)) for _ in range(CHECKOUTS)]
    for _ in range(12):
        await asyncio.sleep(5)
        if chance.random() < 0.3:
            await db.dispose()
        gc.collect()
        await turns()
        ledger_of(db).check()
        check(cumulative_and_delta, db, truth, deltas)
    await asyncio.gather(*tasks, return_exceptions=True)
    del tasks
    gc.collect()
    await turns()
    check(cumulative_and_delta, db, truth, deltas)
    ledger = ledger_of(db)
    assert ledger.granted == sum(ledger.ended.values()) > CHECKOUTS / 2
    assert all(ledger.ended[ending] for ending in (Ending.CHECKED_IN, Ending.INVALIDATED, Ending.DETACHED, Ending.LEAKED))
    assert {reason for reason, count in ledger.rejected.items() if count} >= REFUSALS
