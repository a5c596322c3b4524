"""Observers: what they are told, and that none of them can break a checkout."""

from __future__ import annotations

import asyncio
import gc

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import Recorder, at_rest, ended, engine, ledger_of, pool_of, queue_up, rejected
from doubles.virtual import elapsed, turns
from sqlalchemy import event
from sqlalchemy.util.concurrency import await_only

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, DatabaseUnavailable, Guard, Observer, _ledger, _samples
from sqla_poolguard._trail import Trail


def kinds(recorder):
    """Give the kinds of facts in the order in which they were told."""
    return [kind for kind, _ in recorder.facts]


async def test_facts_of_a_plain_checkout():
    """Opened; waited (for the connect) and granted; ended: with the same site and the true times."""
    recorder = Recorder()
    db = engine(FakeDriver(connect=Gate.SLOW), guard=Guard(name="plain", observers=(recorder,)))
    async with db.connect():
        await asyncio.sleep(1.5)
    assert kinds(recorder) == ["opened", "granted", "waited", "ended"]
    (waited,), (granted,), (checkout,) = (recorder.of(kind) for kind in ("waited", "granted", "ended"))
    assert (waited.pool, waited.waited, waited.queued, waited.ahead) == ("plain", 0.25, 0.0, 0)
    assert (granted.held, granted.waited) == (0.0, 0.25)
    assert (checkout.held, checkout.waited, checkout.ending) == (1.5, 0.25, "checked_in")
    assert waited.site == granted.site == checkout.site
    assert granted.task == checkout.task == asyncio.current_task().get_name()


class Patient(Recorder):
    """Wants to hear of long waits only."""

    waited_from = 0.2


@pytest.mark.parametrize("what", ["ping", "listener"])
async def test_what_follows_a_short_queue_makes_a_long_wait(what):
    """SQLAlchemy's ping, or somebody who listens to checkouts, is waited for too: the wait is told, and for the ping how much was the queue's."""
    patient, driver = Patient(), FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_pre_ping=what == "ping", guard=Guard(observers=(patient,)))
    held = await db.connect()
    if what == "ping":
        driver.ping = Gate.SLOW
    else:
        event.listen(db.sync_engine, "checkout", lambda *_: await_only(asyncio.sleep(0.25)))
    tasks = await queue_up(db, [], "waits", "waits behind it")
    await asyncio.sleep(0.125)
    await held.close()
    await asyncio.gather(*tasks)
    queued = [0.125, 0.375] if what == "ping" else [0.375, 0.625]
    assert [(wait.waited, wait.queued, wait.ahead) for wait in patient.of("waited")] == [
        (0.375, queued[0], 0),
        (0.625, queued[1], 1),
    ]
    at_rest(db, idle=1)


async def test_short_waits_are_not_told_to_the_patient():
    """And leave nothing behind that a longer one could be mistaken for."""
    patient = Patient()
    db = engine(pool_size=1, max_overflow=0, guard=Guard(observers=(patient,)))
    for seconds, told in ((0.125, 0), (0.25, 1), (0.125, 1)):
        held = await db.connect()
        tasks = await queue_up(db, [], "waits")
        await asyncio.sleep(seconds)
        await held.close()
        await asyncio.gather(*tasks)
        assert len(patient.of("waited")) == told
    at_rest(db, idle=1)


async def test_phases_of_who_connected_in_vain_before_it_was_refused(monkeypatch):
    """The time in which it connected is not the queue's."""
    phases = []

    def refused(_trail, _rejection, course, now):
        phases.extend((phase.name, phase.seconds) for phase in course.phases(now))

    monkeypatch.setattr(Trail, "refused", refused)

    class Slow(FakeDriver):
        async def through(self, step):
            if step == "connect":
                await asyncio.sleep(0.25)
                raise ConnectionRefusedError

    db = engine(Slow(), pool_size=1, max_overflow=0, guard=Guard(max_wait=0.4))
    with pytest.raises(DatabaseUnavailable):
        await db.connect()
    assert phases == [("connect", 0.25), ("queue", elapsed() - 0.25)]
    at_rest(db)


async def test_no_wait_is_told_when_a_connection_was_there():
    """A checkout served from idle did not wait, and no Wait is told."""
    recorder = Recorder()
    db = engine(guard=Guard(observers=(recorder,)))
    for _ in range(2):
        async with db.connect():
            pass
    assert len(recorder.of("waited")) == 1
    assert [holder.waited for holder in recorder.of("granted")] == [0.0, 0.0]


async def test_wait_tells_the_queue():
    """A Wait tells how long the request queued and how many were ahead of it."""
    recorder = Recorder()
    db = engine(pool_size=1, max_overflow=0, guard=Guard(observers=(recorder,)))
    held = await db.connect()
    tasks = await queue_up(db, [], "a", "b", "c", hold=0.5)
    await asyncio.sleep(1)
    await held.close()
    await asyncio.gather(*tasks)
    assert [(w.task, w.queued, w.waited, w.ahead) for w in recorder.of("waited")[1:]] == [
        ("a", 1.0, 1.0, 0),
        ("b", 1.5, 1.5, 1),
        ("c", 2.0, 2.0, 2),
    ]


async def test_ahead_stays_true_after_cancellations():
    """However many waiters were cancelled before, `ahead` counts those that really wait."""
    recorder = Recorder()
    db = engine(pool_size=1, max_overflow=0, guard=Guard(observers=(recorder,)))
    for _ in range(10):
        held = await db.connect()
        (gone,) = await queue_up(db, [], "gone")
        gone.cancel()
        held.sync_connection.close()  # passes over the cancelled waiter before its task runs
        await asyncio.wait([gone])
    held = await db.connect()
    tasks = await queue_up(db, [], "a", "b", "c")
    await held.close()
    await asyncio.gather(*tasks)
    assert [w.ahead for w in recorder.of("waited")[-3:]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("timeout", CheckoutTimeout),
        ("queue_full", CheckoutRejected),
        ("cancelled", asyncio.CancelledError),
        ("connect_failed", OSError),
        ("unavailable", DatabaseUnavailable),
    ],
)
async def test_rejection_tells_why(reason, kind):
    """Every way of getting nothing is told once, with its reason and the error the caller gets."""
    recorder = Recorder()
    driver = FakeDriver()
    most = 0 if reason == "queue_full" else None
    guard = Guard(max_waiting=most, observers=(recorder,), breaker=reason == "unavailable")
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=2, guard=guard)
    if kind in {OSError, DatabaseUnavailable}:
        driver.connect = Gate.ERROR
        held = None
    else:
        held = await db.connect()
    asking = asyncio.create_task(db.connect().start(), name="asking")
    await turns()
    if reason == "cancelled":
        asking.cancel()
    with pytest.raises(kind):
        await asking
    (fact,) = recorder.of("rejected")
    assert (fact.reason, fact.task, type(fact.error)) == (reason, "asking", kind)
    assert fact.waited == pytest.approx({"timeout": 2.0, "unavailable": 1.0}.get(reason, 0.0), abs=0.01)
    assert rejected(db) == {reason: 1}
    if held is not None:
        await held.close()
    at_rest(db)


class Broken(Observer):
    """Raises wherever it can."""

    def _fail(self, fact):
        raise ZeroDivisionError(repr(fact))

    granted = ended = waited = rejected = opened = overdue = returned = leaked = _fail


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
async def test_observer_that_raises_breaks_nothing(caplog):
    """An observer that fails at every fact costs no checkout, and the other observers hear everything."""
    recorder = Recorder()
    db = engine(pool_size=1, max_overflow=0, pool_timeout=2, guard=Guard(hold_warning=1, observers=(Broken(), recorder)))
    held = await db.connect()
    with pytest.raises(CheckoutTimeout):
        await db.connect()
    await held.close()
    held = await db.connect()
    del held
    gc.collect()
    await turns()
    expected = ["opened", "granted", "waited", "overdue", "rejected", "returned", "ended", "granted", "leaked", "ended"]
    assert kinds(recorder) == expected
    failures = [record for record in caplog.records if "failed" in record.message]
    assert len(failures) == 1, "one listener, one message: its further failures are not logged"
    assert failures[0].exc_info[0] is ZeroDivisionError
    at_rest(db, idle=0)


async def test_each_failing_method_is_logged_once(caplog):
    """A method that fails is logged with its traceback the first time only."""

    class Half(Observer):
        def granted(self, holder):
            raise ZeroDivisionError

        def ended(self, checkout):
            raise KeyError

    db = engine(guard=Guard(observers=(Half(),)))
    for _ in range(5):
        async with db.connect():
            pass
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError, KeyError]


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("event", ["opened", "waited", "granted", "rejected", "ended"])
async def test_observer_that_raises_a_base_exception_keeps_the_books(event):
    """What is no Exception (pytest.fail, SystemExit) reaches the caller, but the books balance and no slot is lost."""

    class Outcome(BaseException):
        pass

    def fail(self, fact):
        raise Outcome

    driver = FakeDriver(connect=Gate.ERROR if event == "rejected" else Gate.OK)
    db = engine(driver, pool_size=1, max_overflow=0, guard=Guard(observers=(type("Fatal", (Observer,), {event: fail})(),)))
    with pytest.raises(Outcome):
        await (await db.connect()).close()
    gc.collect()
    await turns()
    at_rest(db)
    assert driver.open_now == pool_of(db).checkedin()


async def test_observers_survive_dispose():
    """The pool that takes over tells the same observers."""
    recorder = Recorder()
    db = engine(guard=Guard(observers=(recorder,)))
    await db.dispose()
    async with db.connect():
        pass
    assert kinds(recorder) == ["opened", "granted", "waited", "ended"]


async def test_pool_works_without_telemetry():
    """`telemetry=False` leaves out the OpenTelemetry observer; everything else works as ever."""
    db = engine(guard=Guard(telemetry=False))
    async with db.connect():
        pass
    assert ended(db) == {"checked_in": 1}
    assert pool_of(db).guard.telemetry is False


async def test_samples_do_not_grow_without_bound(monkeypatch):
    """Samples that no exporter takes are capped, and so many of them forgotten at once that few checkouts pay for it."""
    monkeypatch.setattr(_ledger, "SAMPLES_KEPT", 10)
    monkeypatch.setattr(_samples, "FORGOTTEN", 4)
    db = engine(guard=Guard(telemetry=False))
    for _ in range(25):
        async with db.connect():
            pass
    assert 10 - 4 <= len(ledger_of(db).samples) <= 10 + 1, "the last one is counted at the next checkout"


async def test_observer_that_is_cancelled_stops_no_timer(caplog):
    """A cancellation that an observer brings along is logged like any failure; waiters still time out when they should."""

    class Cancelled(Observer):
        def overdue(self, holder):
            raise asyncio.CancelledError

    db = engine(pool_size=1, max_overflow=0, pool_timeout=1.0, guard=Guard(hold_warning=0.5, observers=(Cancelled(),)))
    async with db.connect():
        begun = asyncio.get_running_loop().time()
        with pytest.raises(CheckoutTimeout):
            await db.connect()
        assert asyncio.get_running_loop().time() - begun == 1.0
    assert "observer" in caplog.text
