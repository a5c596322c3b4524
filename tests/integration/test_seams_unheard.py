"""Rows of the seam table in which nobody listens, so that the fast lane is open: the doors are the same."""

from __future__ import annotations

import gc

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import at_rest, ended, engine, ledger_of
from doubles.virtual import turns

from sqla_poolguard import GuardedPool

LEAK = "ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"


@pytest.fixture
def watched():
    """Give a GuardedPool that counts its doors, and the counts."""
    doors = {"in": 0, "out": 0}

    class Watched(GuardedPool):
        def connect(self):
            doors["in"] += 1
            return super().connect()

        def _do_return_conn(self, record):
            doors["out"] += 1
            super()._do_return_conn(record)

    return Watched, doors


@pytest.mark.filterwarnings(LEAK)
@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("close", "checked_in"),
        ("invalidate", "invalidated"),
        ("detach", "detached"),
        ("leak", "leaked"),
        ("reset fails", "invalidated"),
        ("dispose", "checked_in"),
    ],
)
async def test_each_ending_uses_each_door_once(watched, ending, expected):
    """One checkout is one way in and one way out, and is settled once, under its own name."""
    kind, doors = watched
    driver = FakeDriver()
    db = engine(driver, pool=kind, pool_size=1, max_overflow=0)
    connection = await db.connect()
    if ending == "invalidate":
        await connection.invalidate()
    elif ending == "detach":
        raw = await connection.get_raw_connection()
        raw.dbapi_connection.leave()
        raw.detach()
    elif ending == "reset fails":
        driver.rollback = Gate.ERROR
    elif ending == "dispose":
        await db.dispose()
    if ending != "leak":
        await connection.close()
    del connection
    gc.collect()
    await turns()
    assert doors == {"in": 1, "out": 1}
    assert ended(db) == {expected: 1}
    ledger_of(db).check()
    at_rest(db)
    assert driver.open_now == (1 if ending == "close" else 0)
