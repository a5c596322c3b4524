"""Liveness and readiness, over time: a fake clock, a real pool, and readings one after the other."""

from __future__ import annotations

import asyncio
import math

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import ledger_of
from doubles.web import ask, messages, small
from fastapi import FastAPI
from litestar import Litestar, asgi
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard.asgi import liveness, readiness


class Probe:
    """A readiness endpoint whose clock is moved by hand."""

    def __init__(self, *engines, **options):
        self.now = 1000.0
        options = {"leave_rotation": True, "stalled_after": 10, "readings": 3, "recoveries": 2, **options}
        self.app = readiness(*engines, clock=lambda: self.now, **options)

    async def at(self, *seconds):
        """Give the status at each of these moments, in seconds from the beginning."""
        return [(await self.read(moment)).status_code for moment in seconds]

    async def read(self, moment):
        """Give the answer at a moment."""
        self.now = 1000.0 + moment
        return await ask(self.app)


async def come_and_go(engine):
    """Give one connection back and take another one."""
    async with engine.connect():
        pass


async def test_liveness_knows_no_database():
    """It answers 200 whatever happens, and no cache keeps it."""
    response = await ask(liveness())
    assert (response.status_code, response.json()) == (200, {"status": "alive"})
    assert response.headers["cache-control"] == "no-store"
    _, body = await messages(liveness(), method="HEAD")
    assert body["body"] == b""


async def test_full_and_nothing_comes_back(orders):
    """Stalled from the third reading after ten seconds on; ready again after two good ones."""
    probe = Probe(orders)
    async with orders.connect():
        assert await probe.at(0, 5, 9, 10, 15) == [200, 200, 200, 200, 200]
        assert await probe.at(20, 25) == [503, 503]
    assert await probe.at(30, 35) == [503, 200]


async def test_the_answer(orders):
    """The body tells the state and its figures, and no cache keeps it."""
    probe = Probe(orders, readings=1)
    async with orders.connect():
        await probe.read(0)
        response = await probe.read(12.5)
    assert response.headers["cache-control"] == "no-store"
    pool = {"pool": "orders", "used": 1, "limit": 1, "waiting": 0, "full": True, "no_checkin_for": 12.5, "stalled": True}
    assert (response.status_code, response.json()) == (503, {"status": "not ready", "pools": [pool]})
    await probe.read(20)
    free = {**pool, "used": 0, "full": False, "no_checkin_for": 0.0, "stalled": False}
    assert (await probe.read(30)).json() == {"status": "ready", "pools": [free]}


async def test_leaving_is_opt_in(orders):
    """Unless told to leave, a stalled pool is reported and the replica stays."""
    probe = Probe(orders, leave_rotation=False)
    async with orders.connect():
        await probe.at(0, 10, 20)
        response = await probe.read(30)
    assert (response.status_code, response.json()["status"]) == (200, "stalled")
    assert response.json()["pools"][0]["stalled"] is True
    assert (await ask(readiness(orders))).status_code == 200


async def test_full_but_moving(orders):
    """A pool that is full at every reading, and gets a connection back in between, is busy and not stalled."""
    probe = Probe(orders)
    for moment in range(0, 200, 9):
        await come_and_go(orders)
        async with orders.connect():
            assert await probe.at(moment) == [200]


async def test_one_checkin_begins_anew(orders):
    """The seconds count from the last connection that came back."""
    probe = Probe(orders)
    async with orders.connect():
        assert await probe.at(0, 10, 11) == [200] * 3
    async with orders.connect():
        assert await probe.at(12, 21, 22, 23) == [200] * 4
        assert await probe.at(24) == [503]


async def test_the_time_before_it_was_full_does_not_count(orders):
    """After an hour of idleness, a pool that was filled a moment ago is not stalled."""
    probe = Probe(orders)
    await probe.at(0)
    async with orders.connect():
        assert await probe.at(3600, 3602, 3604, 3606) == [200] * 4


async def test_idle_but_not_full(orders):
    """A pool that is not full is ready, however long nothing has come back."""
    probe = Probe(orders, readings=1)
    assert await probe.at(0, 100, 1000) == [200] * 3
    large = small(name="large", pool_size=2)
    probe = Probe(large, readings=1)
    async with large.connect():
        assert await probe.at(0, 100, 1000) == [200] * 3
    await large.dispose()


async def test_connects_that_do_not_end_fill_a_pool():
    """Slots in which a connection is being opened count."""
    driver = FakeDriver(connect=Gate.NEVER)
    engine = small(driver, pool_timeout=None)
    task = asyncio.create_task(come_and_go(engine))
    await asyncio.sleep(0.01)
    probe = Probe(engine, readings=1)
    assert await probe.at(0, 10) == [200, 503]
    driver.let("connect")
    await task
    await engine.dispose()


async def test_readings_in_a_row(orders):
    """A good reading between bad ones begins the count anew, and a bad one between good ones."""
    probe = Probe(orders)
    held = await orders.connect()
    await probe.at(0, 10, 11)
    await held.close()
    await probe.at(12)
    async with orders.connect():
        assert await probe.at(13, 23, 24, 25) == [200, 200, 200, 503]
    assert await probe.at(26) == [503]
    async with orders.connect():
        assert await probe.at(27) == [200]  # good: it has moved


async def test_bad_between_good(orders):
    """Two good readings have to follow one another."""
    probe = Probe(orders, readings=1, stalled_after=0.001)
    held = await orders.connect()
    assert await probe.at(0, 1) == [200, 503]
    await held.close()
    assert await probe.at(2) == [503]
    held = await orders.connect()
    assert await probe.at(3) == [200]
    assert await probe.at(4) == [503]
    await held.close()
    assert await probe.at(5, 6) == [503, 200]


async def test_several_probers_are_one(orders):
    """Readings less than a second apart count as one: three probers at one moment are no three readings."""
    probe = Probe(orders)
    async with orders.connect():
        await probe.at(0)
        assert await probe.at(10, 10, 10, 10.1, 10.5, 10.9) == [200] * 6
        assert await probe.at(11, 12) == [200, 503]


async def test_a_probe_never_takes_a_connection(orders):
    """Not even from a pool that has one to give."""
    probe = Probe(orders)
    await probe.at(0, 10, 20)
    assert ledger_of(orders).requested == 0


async def test_several_engines(orders):
    """One stalled pool is enough."""
    other = small(name="other")
    probe = Probe(orders, other, readings=1)
    async with other.connect():
        assert await probe.at(0, 10) == [200, 503]
        pools = (await probe.read(20)).json()["pools"]
    assert [(pool["pool"], pool["stalled"]) for pool in pools] == [("orders", False), ("other", True)]
    await other.dispose()


async def test_a_pool_without_a_limit_is_never_full():
    """There is nothing to wait for."""
    engine = small(name="wide", max_overflow=-1)
    probe = Probe(engine, readings=1)
    async with engine.connect(), engine.connect():
        assert await probe.at(0, 100) == [200, 200]
    await engine.dispose()


async def test_after_dispose_the_engine_is_still_looked_at(orders):
    """A pool that was replaced is not the one that is judged."""
    probe = Probe(orders, readings=1)
    async with orders.connect():
        await probe.at(0)
        await orders.dispose()
        assert await probe.at(100) == [200]


async def test_an_address_is_not_told():
    """A pool called after its database is not named."""
    engine = small(name="10.0.0.7:5432/orders")
    assert "10.0.0.7" not in (await Probe(engine).read(0)).text
    await engine.dispose()


async def test_as_a_route(orders):
    """FastAPI, Starlette and Litestar take the endpoints as routes."""
    app = FastAPI()
    app.add_route("/livez", liveness())
    app.add_route("/readyz", readiness(orders))
    assert (await ask(app, url="/livez")).json() == {"status": "alive"}
    assert (await ask(app, url="/readyz")).json()["status"] == "ready"
    routes = [asgi(path, copy_scope=True)(probe) for path, probe in (("/livez", liveness()), ("/readyz", readiness(orders)))]
    other = Litestar(routes, logging_config=None)
    assert (await ask(other, url="/livez")).json() == {"status": "alive"}
    assert (await ask(other, url="/readyz")).json()["status"] == "ready"


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("leave_rotation", "yes", "True or False"),
        ("stalled_after", 0, "a number of seconds, more than 0"),
        ("stalled_after", math.inf, "a number of seconds, more than 0"),
        ("stalled_after", True, "a number of seconds, more than 0"),
        ("stalled_after", "10", "a number of seconds, more than 0"),
        ("readings", 0, "a whole number, 1 or more"),
        ("readings", 1.5, "a whole number, 1 or more"),
        ("recoveries", 0, "a whole number, 1 or more"),
        ("recoveries", True, "a whole number, 1 or more"),
    ],
)
async def test_options_are_checked(orders, option, value, allowed):
    """A wrong option is refused at once, by name and value, with what is allowed."""
    with pytest.raises(ValueError, match=option) as caught:
        readiness(orders, **{option: value})
    assert str(caught.value) == f"{option}={value!r} is not allowed; allowed: {allowed}"


async def test_engines_are_checked():
    """An engine without a guarded pool, and no engine at all, are refused at once."""
    with pytest.raises(TypeError, match="at least one engine"):
        readiness()
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(TypeError, match="GuardedPool"):
        readiness(engine)
