"""The probe that finds out when the database is back: when it is made, when it rests, and what becomes of it when its loop or pool goes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from contextvars import ContextVar

import pytest
from asyncpg.exceptions import InvalidPasswordError
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, ask, at_rest, breaker_of, engine, ledger_of, pool_of
from doubles.virtual import VirtualLoop, turns
from sqlalchemy import event

from sqla_poolguard import DatabaseUnavailable, GuardedPool, _connecting, snapshot
from sqla_poolguard._connects import BreakerState


@pytest.fixture(autouse=True)
def dice(monkeypatch):
    """Let chance be the same every time."""
    monkeypatch.setattr(random, "random", random.Random(7).random)


async def test_the_probe_rests_when_nobody_wants_anything():
    """After half a minute without a request it stops; the next request has it made, and waits for what it tells."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver)
    await ask(db)
    await asyncio.sleep(60)
    tried = driver.begun["connect"]
    assert 10 < tried < 60
    await asyncio.sleep(600)
    assert driver.begun["connect"] == tried
    error = await ask(db)
    assert isinstance(error, DatabaseUnavailable)
    assert error.after == pytest.approx(1.0, abs=0.02)
    assert (await ask(db)).after == 0
    await asyncio.sleep(600)
    driver.connect = Gate.OK
    assert await ask(db) < 0.01


@pytest.mark.parametrize("error", [OSError("refused"), InvalidPasswordError("password authentication failed")])
def test_every_request_has_a_loop_of_its_own(error):
    """Jobs that each run in `asyncio.run` find the database back, though no loop lives until the probe is due."""
    driver = FakeDriver()
    through = driver.through

    async def fail(_step):
        raise error

    driver.through = fail
    db = engine(driver, pool_size=2)

    def job(pause):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.get_loop()._now = now[0]
            answer = runner.run(ask(db))
            now[0] = runner.get_loop().time() + pause
        return answer

    now = [VirtualLoop.start]
    assert [type(job(5)) for _ in range(4)].count(DatabaseUnavailable if type(error) is OSError else type(error)) == 4
    driver.through = through
    answers = [job(5) for _ in range(4)]
    assert all(isinstance(answer, float) for answer in answers), answers
    ledger_of(db).check()


def test_jobs_in_quick_succession():
    """A job that comes right when the probe was due, and whose loop ends at once, does not put it off for ever."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool_size=2)
    now, answers = VirtualLoop.start, []
    for number in range(200):
        if number == 100:
            driver.connect = Gate.OK
            assert driver.begun["connect"] < 20
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.get_loop()._now = now
            answers.append(runner.run(ask(db)))
            now = runner.get_loop().time() + 0.02
    first = next(number for number, answer in enumerate(answers) if number >= 100 and isinstance(answer, float))
    assert first <= 200  # not later than two seconds after it was back
    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers[:first])
    assert answers[first:] == [0.0] * (200 - first)
    ledger_of(db).check()


async def test_the_probe_has_no_context():
    """It is made on nobody's behalf: what a request has set for itself is not seen in it."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver)
    request, seen = ContextVar("request", default=None), []

    @event.listens_for(db.sync_engine, "connect")
    def connected(*_):
        seen.append(request.get())

    async def first():
        request.set("the first")
        await ask(db)

    await asyncio.create_task(first())
    driver.connect = Gate.OK
    await asyncio.sleep(3)
    assert seen == [None]


@pytest.mark.parametrize("step", range(6))
async def test_disposing_while_the_probe_is_made(step):
    """At whatever step of it: the slot and the connection are not lost, and the new pool goes on."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver)
    await ask(db)
    old = pool_of(db)
    driver.connect, driver.delay = Gate.SLOW, 0.01
    async with asyncio.timeout(5):
        while breaker_of(db).state is not BreakerState.HALF_OPEN:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
    for _ in range(step):
        await asyncio.sleep(0)
    await db.dispose()
    await asyncio.sleep(5)
    assert (old._slots.taken, len(old._slots.idle)) == (0, 0)
    old._slots.breaker.check()
    assert driver.open_now == 0
    assert await ask(db) == pytest.approx(0.01)
    ledger_of(db).check()


def test_the_probe_dies_with_its_loop():
    """The next loop has another one made."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver)

    async def begin():
        await ask(db)
        driver.connect = Gate.NEVER
        while breaker_of(db).state is not BreakerState.HALF_OPEN:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
        await turns()

    loop = VirtualLoop()
    loop.run_until_complete(begin())
    loop.close()
    first = pool_of(db)._connecting._probe[1].get_coro()
    driver.connect = Gate.OK

    async def go_on():
        await ask(db)
        await asyncio.sleep(2.1)
        return await ask(db)

    loop = VirtualLoop()
    assert loop.run_until_complete(go_on()) == 0
    with contextlib.suppress(GeneratorExit):  # SQLAlchemy 2.0 lets it through
        first.close()  # now the first probe ends, too late
    at_rest(db)
    loop.run_until_complete(db.dispose())
    loop.close()
    ledger_of(db).check()


async def test_disposing_gives_up_the_probe_under_way():
    """It does not wait for an answer for two seconds more, on behalf of a pool that is gone."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver)
    await ask(db)
    driver.connect = Gate.NEVER
    async with asyncio.timeout(5):
        while driver.connecting == 0:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    await db.dispose()
    await turns()
    assert driver.connecting == 0


async def test_a_pool_that_was_replaced_probes_no_more():
    """Nobody will come and ask it."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver)
    await ask(db)
    await db.dispose()
    tried = driver.begun["connect"]
    await asyncio.sleep(20)
    assert driver.begun["connect"] == tried


async def test_it_is_made_as_long_as_somebody_waits():
    """A waiter wants a connection all the time; not only when it comes."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0, pool_timeout=300)
    async with all_out(db, 1):
        driver.connect = Gate.ERROR
        asking = asyncio.create_task(ask(db))
        await asyncio.sleep(100)
        assert snapshot(db).waiting == 1
        driver.connect = Gate.OK
        assert await asking == pytest.approx(100, abs=2.1)
    at_rest(db, idle=2)


async def test_it_finds_an_error_of_the_application():
    """The database is back, and what is wrong now is told to those whom it concerns."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver)

    @event.listens_for(db.sync_engine, "connect")
    def listener(*_):
        raise ZeroDivisionError

    assert isinstance(await ask(db), DatabaseUnavailable)
    driver.connect = Gate.OK
    await asyncio.sleep(2.1)
    assert breaker_of(db).state is BreakerState.CLOSED
    assert isinstance(await ask(db), ZeroDivisionError)


def test_two_loops_in_two_threads(monkeypatch):
    """A probe of one ends while the other begins the next, since there is time between a failure and the end of its probe; no slot is lost."""
    look = _connecting.Connecting._look

    def slowly(connecting, outage):
        look(connecting, outage)
        if connecting._probe is not None and connecting._probe[0] is asyncio.get_running_loop():
            time.sleep(0.06)

    monkeypatch.setattr(_connecting.Connecting, "_look", slowly)
    monkeypatch.setattr(random, "random", lambda: 0.0001)
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool=GuardedPool, pool_size=2, max_overflow=1)
    end = time.monotonic() + 1.5

    async def client():
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await ask(db)
            await asyncio.sleep(0.01)
        driver.connect = Gate.OK  # so that no loop ends with a probe that is due
        while isinstance(await ask(db), Exception):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)

    threads = [threading.Thread(target=lambda: asyncio.run(client())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert driver.begun["connect"] > 3
    breaker_of(db).check()
    at_rest(db)
