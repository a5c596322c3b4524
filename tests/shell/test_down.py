"""While the database is down: who connects, who waits, who is told at once, and how it is found to be back."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from contextvars import ContextVar

import pytest
from asyncpg.exceptions import InvalidPasswordError
from doubles.driver import FakeDriver, Gate, greenlet_spawn
from doubles.pools import Recorder, all_out, at_rest, engine, ledger_of, pool_of, queue_up, rejected
from doubles.virtual import VirtualLoop, turns
from sqlalchemy import event

from sqla_poolguard import CheckoutTimeout, DatabaseUnavailable, Guard, NoConnectionError, snapshot
from sqla_poolguard._connects import BreakerState


@pytest.fixture(autouse=True)
def dice(monkeypatch):
    """Let chance be the same every time."""
    monkeypatch.setattr(random, "random", random.Random(7).random)


def elapsed():
    """Seconds since the loop began."""
    return asyncio.get_running_loop().time() - VirtualLoop.start


def breaker_of(db):
    """Give the breaker of a pool."""
    return pool_of(db)._slots.breaker


def strict(**options):
    """Make options with which a pool turns away."""
    return Guard(fail_fast=True, **options)


async def ask(db, hold=0.0):
    """Ask for a connection; give the seconds after which it came, or the error with these."""
    begun = elapsed()
    try:
        async with db.connect():
            waited = elapsed() - begun
            await asyncio.sleep(hold)
            return waited
    except Exception as error:  # noqa: BLE001 - it is looked at
        error.after = elapsed() - begun
        return error


async def test_a_blip_is_ridden_out():
    """Who met the error waits with the others, and all are served when the probe finds the database back."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool_size=3)
    asking = [asyncio.create_task(ask(db, 0.01)) for _ in range(8)]
    await asyncio.sleep(0.1)
    assert breaker_of(db).state is not BreakerState.CLOSED
    assert snapshot(db).waiting == 8
    driver.connect = Gate.OK
    waits = await asyncio.gather(*asking)
    assert all(isinstance(wait, float) and wait < 1 for wait in waits), waits
    assert breaker_of(db).state is BreakerState.CLOSED
    at_rest(db)
    assert rejected(db) == {}


@pytest.mark.parametrize("fail_fast", ["observe", True])
async def test_an_outage_is_told(fail_fast):
    """Who came first is told after a second, who comes later at once, with the last error as cause; and few connects are tried."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool_size=5, guard=Guard(fail_fast=fail_fast))
    first = asyncio.create_task(ask(db))
    await asyncio.sleep(0.2)
    second = asyncio.create_task(ask(db))
    await asyncio.sleep(0.3)
    later = await ask(db)
    assert isinstance(later, DatabaseUnavailable)
    assert later.after == 0
    assert (later.reason, later.status_code, str(later.orig)) == ("unavailable", 503, "the fake driver refuses to connect")
    assert later.__cause__ is later.orig
    assert later.downtime.lasted == pytest.approx(0.5)
    assert later.retry_after >= later.downtime.lasted
    assert snapshot(db).downtime.fails == later.downtime.fails
    answers = await asyncio.gather(first, second)
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 2
    assert all(type(answer.__cause__) is OSError and answer.__context__ is None for answer in answers)
    assert [answer.after for answer in answers] == pytest.approx([1.0, 1.0], abs=0.02)
    for _ in range(290):
        await asyncio.sleep(0.1)
        assert (await ask(db)).after == 0
    assert driver.begun["connect"] < 60
    at_rest(db, idle=0)
    assert set(rejected(db)) == {"unavailable"}


async def test_it_comes_back_by_itself():
    """Nobody need wait for it: the probe finds it, and connecting begins with one at a time, then two."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool_size=10, guard=strict())
    await ask(db)
    await asyncio.sleep(10)
    assert isinstance(await ask(db), DatabaseUnavailable)
    driver.connect = Gate.OK
    await asyncio.sleep(2.01)  # the longest pause
    assert breaker_of(db).state is BreakerState.CLOSED
    assert driver.open_now == 1
    assert snapshot(db).downtime is None
    driver.connect, driver.delay = Gate.SLOW, 0.02
    most = []
    asking = [asyncio.create_task(ask(db, 1)) for _ in range(10)]
    for _ in range(20):
        await asyncio.sleep(0.01)
        most.append(driver.connecting)
    assert sorted(set(most)) == [0, 1, 2, 3]
    assert most.index(1) < most.index(2) < most.index(3)
    assert all(isinstance(wait, float) for wait in await asyncio.gather(*asking))
    await db.dispose()


async def test_no_more_connects_at_a_time_than_the_limit():
    """A crowd that comes to a cold pool opens three at a time, and all are served."""
    driver = FakeDriver(connect=Gate.SLOW, delay=0.1)
    db = engine(driver, pool_size=10)
    asking = [asyncio.create_task(ask(db, 0.5)) for _ in range(10)]
    await turns()
    assert driver.connecting == 3
    assert snapshot(db).connecting == 3
    waits = await asyncio.gather(*asking)
    assert sorted(round(wait, 3) for wait in waits) == [0.1] * 3 + [0.2] * 3 + [0.3] * 3 + [0.4]
    await db.dispose()
    db = engine(FakeDriver(connect=Gate.SLOW, delay=0.1), pool_size=10, guard=Guard(connect_limit=None))
    assert await asyncio.gather(*(ask(db, 0.5) for _ in range(10))) == pytest.approx([0.1] * 10)


async def test_who_may_not_wait_connects_at_once():
    """With `pool_timeout=0` nobody waits for a turn to connect, and the error comes as it is."""
    driver = FakeDriver(connect=Gate.SLOW, delay=0.1)
    db = engine(driver, pool_size=10, pool_timeout=0)
    assert await asyncio.gather(*(ask(db, 0.5) for _ in range(10))) == pytest.approx([0.1] * 10)
    await db.dispose()
    driver.connect = Gate.ERROR
    assert isinstance(await ask(db), OSError)


async def test_connections_that_live_go_on_serving():
    """They pass from hand to hand, however long connecting fails; nobody is told that the database is down, for it is not."""
    driver = FakeDriver()
    db = engine(driver, pool_size=3, max_overflow=0, guard=strict())
    async with all_out(db, 1):
        driver.connect = Gate.ERROR
        waiting = [asyncio.create_task(ask(db, 0.1)) for _ in range(4)]
        await asyncio.sleep(0.5)
        assert breaker_of(db).state is not BreakerState.CLOSED
    waits = await asyncio.gather(*waiting)
    assert waits == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert await ask(db) == 0
    at_rest(db, idle=1)


async def test_age_does_not_matter_while_no_other_can_be_had():
    """`pool_recycle` would throw away the last connections that live."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0, pool_recycle=0)
    held = await db.connect()
    driver.connect = Gate.ERROR
    asking = asyncio.create_task(ask(db))
    await asyncio.sleep(0.1)
    await held.close()
    assert await asking == pytest.approx(0.1)
    assert driver.open_now == 1


@pytest.mark.parametrize("how", ["ping_after", "pre_ping", "invalidated"])
async def test_dead_connections_are_given_to_nobody(how):
    """Who gets one finds it dead, cannot connect in its place, and waits with the others."""
    driver = FakeDriver()
    db = engine(driver, pool_size=3, max_overflow=0, pool_pre_ping=how == "pre_ping", guard=Guard(ping_after=0.001))
    async with all_out(db, 3):
        pass
    await asyncio.sleep(1)
    driver.ping = driver.connect = Gate.ERROR
    if how == "invalidated":
        pool_of(db)._invalidate_time = 1e12
    asking = [asyncio.create_task(ask(db)) for _ in range(5)]
    await asyncio.sleep(0.2)
    assert driver.open_now == 0
    assert snapshot(db).waiting == 5
    driver.ping = driver.connect = Gate.OK
    pool_of(db)._invalidate_time = 0
    assert all(isinstance(wait, float) for wait in await asyncio.gather(*asking))
    at_rest(db)


async def test_what_a_person_has_to_mend_is_raised_as_it_is():
    """A wrong password is no blip: everybody learns of it at once, by the driver's own error."""
    driver = FakeDriver()

    async def refuse(_step):
        driver.begun["connect"] += 1
        await asyncio.sleep(0.01)
        message = "password authentication failed"
        raise InvalidPasswordError(message)

    driver.through = refuse
    db = engine(driver, pool_size=1, max_overflow=0)
    answers = await asyncio.gather(*(ask(db) for _ in range(5)))
    assert [type(answer) for answer in answers] == [InvalidPasswordError] * 5
    assert all(answer.after < 0.3 for answer in answers)
    again = [await ask(db) for _ in range(50)]
    assert [type(answer) for answer in again] == [InvalidPasswordError] * 50
    assert driver.begun["connect"] < 5
    assert len({id(answer) for answer in again}) == 50, "every caller has its own"
    ledger_of(db).check()


async def test_errors_of_the_application_are_no_outage():
    """A listener that fails, and a mistake, reach the caller as they are, and open nothing."""
    db = engine(FakeDriver(), pool_size=2)
    fail = True

    @event.listens_for(db.sync_engine, "connect")
    def listener(*_):
        if fail:
            raise ZeroDivisionError

    for _ in range(5):
        assert isinstance(await ask(db), ZeroDivisionError)
    assert breaker_of(db).state is BreakerState.CLOSED
    fail = False
    assert await ask(db) == 0
    at_rest(db, idle=1)


async def test_a_database_that_does_not_answer():
    """With `fail_fast` no answer is an outage: newcomers are told at once, nobody waits for longer than `max_wait`."""
    driver = FakeDriver()
    db = engine(driver, pool_size=5, guard=strict())
    assert await ask(db) == 0
    pool_of(db)._invalidate_time = 1e12
    driver.connect = Gate.NEVER
    asking = [asyncio.create_task(ask(db)) for _ in range(5)]
    await asyncio.sleep(0.4)
    told = await ask(db)
    assert isinstance(told, DatabaseUnavailable)
    assert told.after == 0
    assert "connecting has taken 0.4 s so far" in str(told)
    answers = await asyncio.gather(*asking)
    assert all(isinstance(answer, NoConnectionError) and answer.after <= 1.01 for answer in answers), answers
    assert isinstance(await ask(db), DatabaseUnavailable)
    pool_of(db)._invalidate_time = 0
    driver.connect = Gate.OK
    await asyncio.sleep(4.1)  # a probe that hangs is given up after two seconds, the next one comes after two more at most
    assert await ask(db) == 0
    at_rest(db)


async def test_a_database_that_is_slow_is_waited_for():
    """Where nobody is to be turned away, a connect may take its time: a server that has to wake up is not down."""
    driver = FakeDriver(connect=Gate.SLOW, delay=6.0)
    db = engine(driver, pool_size=5)
    assert await asyncio.gather(*(ask(db) for _ in range(5))) == pytest.approx([6.0] * 3 + [12.0] * 2)
    assert breaker_of(db).state is BreakerState.CLOSED


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


@pytest.mark.parametrize("pre_ping", [False, True])
async def test_a_connection_on_its_way_lives(pre_ping):
    """While the last one is handed over, or pinged, nobody is told that there is none."""
    driver = FakeDriver()
    db = engine(driver, pool_size=3, max_overflow=0, pool_pre_ping=pre_ping, guard=strict())
    async with all_out(db, 1):
        driver.connect = Gate.ERROR
        asyncio.get_running_loop().call_later(1, driver.__setattr__, "ping", Gate.SLOW)
        waiting = [asyncio.create_task(ask(db, 0.05)) for _ in range(2)]
        await asyncio.sleep(0.4)
    driver.delay = 0.02
    for _ in range(40):
        waiting.append(asyncio.create_task(ask(db, 0.01)))
        await asyncio.sleep(0.03)
    answers = await asyncio.gather(*waiting)
    assert not any(isinstance(answer, DatabaseUnavailable) for answer in answers), answers


async def test_after_an_outage_nobody_is_told_to_wait_who_may_not():
    """With `pool_timeout=0` there is no queue in which to wait for one's turn to connect."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool_size=10, pool_timeout=0)
    assert type(await ask(db)) is OSError
    assert isinstance(await ask(db), DatabaseUnavailable)
    driver.connect = Gate.SLOW
    await asyncio.sleep(3)
    answers = await asyncio.gather(*(ask(db, 0.1) for _ in range(10)))
    assert all(isinstance(answer, float) for answer in answers), answers


@pytest.mark.parametrize("how", ["error", "silence"])
async def test_pre_ping_hides_nothing(how):
    """Where the wait is as long as a blip is ridden out, the error still says what it is, and why."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, pool_pre_ping=True, guard=strict())
    async with all_out(db, 2):
        pass
    driver.ping, driver.connect = Gate.ERROR, Gate.ERROR if how == "error" else Gate.NEVER
    answers = await asyncio.gather(*(ask(db) for _ in range(6)))
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 6
    assert all(answer.__cause__ is answer.orig and answer.after <= 1.01 for answer in answers)


async def test_silence_from_the_start():
    """With `fail_fast` the first requests, which connect themselves, learn that the server does not answer; the others at once."""
    driver = FakeDriver(connect=Gate.NEVER)
    db = engine(driver, pool_size=5, guard=strict())
    answers = await asyncio.gather(*(ask(db) for _ in range(8)))
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 8
    assert breaker_of(db).state is not BreakerState.CLOSED
    assert (await ask(db)).after == 0


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


async def test_without_a_breaker():
    """Every request meets the error itself, as with any other pool."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, guard=Guard(breaker=False))
    assert [type(await ask(db)) for _ in range(5)] == [OSError] * 5
    assert driver.begun["connect"] == 5
    assert breaker_of(db).state is BreakerState.CLOSED


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
    driver.connect = Gate.OK

    async def go_on():
        await ask(db)
        await asyncio.sleep(2.1)
        return await ask(db)

    loop = VirtualLoop()
    assert loop.run_until_complete(go_on()) == 0
    driver._held.clear()  # now the task of the first probe goes, too late
    gc.collect()
    at_rest(db)
    loop.run_until_complete(db.dispose())
    loop.close()
    ledger_of(db).check()


async def test_waiters_come_and_go_meanwhile():
    """A waiter that is cancelled, or whose own deadline passes, is told that, and nothing is lost."""
    driver = FakeDriver(connect=Gate.ERROR)
    db = engine(driver, pool_size=2, pool_timeout=0.3)
    tasks = await queue_up(db, [], *range(4))
    await asyncio.sleep(0.1)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == [
        "DatabaseUnavailable",
        "CancelledError",
        "DatabaseUnavailable",
        "DatabaseUnavailable",
    ]
    at_rest(db, idle=0)


async def test_a_timeout_is_no_outage():
    """Where connections live, who waits in vain is told that they are all out."""
    driver = FakeDriver()
    db = engine(driver, pool_size=2, max_overflow=0, pool_timeout=0.5)
    async with all_out(db, 1):
        driver.connect = Gate.ERROR
        error = await ask(db)
    assert isinstance(error, CheckoutTimeout)


async def test_the_log_tells_of_an_outage_once(caplog):
    """One line when it begins, without the text of the error, which might show a password; one when it ends."""
    driver = FakeDriver(connect=Gate.ERROR)
    recorder = Recorder()
    db = engine(driver, guard=Guard(observers=(recorder,), name="orders"))
    with caplog.at_level(logging.WARNING, "sqla_poolguard"):
        for _ in range(5):
            await ask(db)
        driver.connect = Gate.OK
        await asyncio.sleep(2.1)
        assert await ask(db) == 0
    assert [record.getMessage() for record in caplog.records] == [
        (
            "pool 'orders': the database cannot be reached (refused): OSError; connections that live go on serving, "
            "and connecting is tried in the background"
        ),
        "pool 'orders': the database can be reached again",
    ]
    assert [fact.reason for fact in recorder.of("rejected")] == ["unavailable"] * 5


async def test_many_connects_fail_together():
    """Outages that come and go, under load: the laws hold at every turn, and at the end everything works."""
    rnd = random.Random(11)
    driver = FakeDriver()
    db = engine(driver, pool_size=3, max_overflow=2, guard=strict(), pool_timeout=1)
    breaker, ledger = breaker_of(db), ledger_of(db)

    def check():
        breaker.check()
        ledger.check()
        assert driver.live <= 5

    asyncio.get_running_loop().after_turn = check

    async def weather():
        for _ in range(60):
            driver.connect = rnd.choice([Gate.OK, Gate.ERROR, Gate.SLOW, Gate.NEVER])
            driver.delay = rnd.choice([0.01, 0.1, 3.0])
            pool_of(db)._invalidate_time = rnd.choice([0, 1e12])
            await asyncio.sleep(rnd.uniform(0, 4))
            if rnd.random() < 0.3:
                driver.let("connect")

    async def client():
        while not calm.done():
            task = asyncio.create_task(ask(db, rnd.uniform(0, 0.2)))
            await asyncio.wait([task], timeout=rnd.choice([0.05, 2]))
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(rnd.uniform(0, 0.3))

    calm = asyncio.ensure_future(weather())
    await asyncio.gather(*(client() for _ in range(12)))
    assert ledger.granted > 500
    assert ledger.rejected["unavailable"] > 50
    driver.connect = Gate.OK
    pool_of(db)._invalidate_time = 0
    driver.let("connect")
    await asyncio.sleep(5)
    assert await ask(db) == 0
    at_rest(db)
    await db.dispose()
    await greenlet_spawn(lambda: None)
    assert driver.open_now == 0
