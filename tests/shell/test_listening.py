"""A user's own pool listeners hear of every checkout, whenever and wherever they were added, though the short way needs silence."""

from __future__ import annotations

import logging

import pytest
from doubles.pools import at_rest, engine, pool_of
from sqlalchemy import event
from sqlalchemy.pool import Pool

from sqla_poolguard import _fastlane

EVENTS = ("checkout", "checkin", "reset")


@pytest.fixture
def listen():
    """Add a listener that counts; it is removed after the test."""
    added = []

    def add(target, name):
        heard = []

        def listener(*_):
            heard.append(name)

        event.listen(target, name, listener)
        added.append((target, name, listener))
        return heard

    yield add
    for listener in added:
        if event.contains(*listener):
            event.remove(*listener)


async def use(db, times=2):
    """Check out and in."""
    for _ in range(times):
        async with db.connect():
            pass


@pytest.mark.parametrize("name", EVENTS)
async def test_listener_added_to_a_pool_in_use(listen, name):
    """A listener that comes late hears everything from then on."""
    db = engine()
    await use(db)
    heard = listen(db.sync_engine, name)
    await use(db)
    assert heard == [name] * 2
    at_rest(db, idle=1)


@pytest.mark.parametrize("name", EVENTS)
async def test_listener_survives_dispose(listen, name):
    """A listener goes over to the pool that takes a disposed one's place."""
    db = engine()
    heard = listen(db.sync_engine, name)
    await use(db)
    for disposals in (1, 2):
        await db.dispose()
        await use(db)
        assert heard == [name] * 2 * (disposals + 1)


@pytest.mark.parametrize("name", EVENTS)
async def test_listener_on_all_pools(listen, name):
    """A listener on `Pool` itself hears of those that exist already and of those that come."""
    old = engine()
    await use(old)
    heard = listen(Pool, name)
    await use(old)
    assert heard == [name] * 2
    new = engine()
    await use(new)
    assert heard == [name] * 4
    await new.dispose()
    await use(new)
    assert heard == [name] * 6


@pytest.mark.parametrize("name", EVENTS)
async def test_listener_that_left(listen, name):
    """After the last listener has gone everything works as before."""
    db = engine()
    heard = listen(db.sync_engine, name)

    def listener(*_):
        heard.append("second")

    event.listen(db.sync_engine, name, listener)
    await use(db, 1)
    event.remove(db.sync_engine, name, listener)
    await use(db, 1)
    assert heard == [name, "second", name]
    at_rest(db, idle=1)


@pytest.mark.parametrize("name", EVENTS)
async def test_listener_added_while_a_connection_is_out(listen, name):
    """A listener that comes between checkout and checkin hears of the checkin."""
    db = engine()
    await use(db)
    async with db.connect():
        heard = listen(db.sync_engine, name)
    assert heard == ([] if name == "checkout" else [name])
    at_rest(db, idle=1)


def said(caplog):
    """Give what SQLAlchemy's code says of a checkout, and forget it."""
    lines = [record.getMessage() for record in caplog.records if "checked out" in record.getMessage()]
    caplog.clear()
    return len(lines)


async def test_debug_log_is_turned_on_and_off(caplog):
    """Whoever turns the pool's debug log on while it runs, reads every checkout until it is off again."""
    db = engine()
    logger = logging.getLogger(pool_of(db).logger.name)
    await use(db)
    assert said(caplog) == 0
    for level, lines in ((logging.DEBUG, 2), (logging.INFO, 0), (logging.DEBUG, 2), (logging.NOTSET, 0)):
        logger.setLevel(level)
        await use(db)
        assert said(caplog) == lines
    with caplog.at_level(logging.DEBUG, logger="sqlalchemy"):
        await use(db)
        assert said(caplog) == 2
    await use(db)
    assert said(caplog) == 0
    at_rest(db, idle=1)


async def test_echo_pool(caplog):
    """`echo_pool="debug"` makes one engine tell every checkout, and no other."""
    loud, silent = engine(echo_pool="debug"), engine()
    for db, lines in ((loud, 2), (silent, 0), (loud, 2)):
        await use(db)
        assert said(caplog) == lines


async def test_logger_that_decides_by_itself(monkeypatch, caplog):
    """An application's own logger class may decide from one call to the next; it is asked each time."""
    answers = []

    class Fickle(logging.Logger):
        def isEnabledFor(self, level):  # noqa: N802 - as in logging
            return answers.pop(0) if level == logging.DEBUG and answers else super().isEnabledFor(level)

    monkeypatch.setattr(logging, "getLogger", lambda name=None: fickle if name and "GuardedPool" in name else logging.root)
    fickle = Fickle("fickle", logging.INFO)
    fickle.addHandler(caplog.handler)
    db = engine()
    assert pool_of(db).logger is fickle
    await use(db, 1)
    assert said(caplog) == 0
    answers[:] = [True] * 3
    await use(db, 1)
    assert said(caplog) == 1


@pytest.mark.parametrize("name", EVENTS)
async def test_short_way_is_open_again_after_the_last_listener(listen, name, lane, monkeypatch):
    """A listener that has gone costs nothing any more, in this pool and in the one that takes its place."""
    db = engine()
    short = []
    take = _fastlane.take

    def watched(*args):
        fairy = take(*args)
        short.append(fairy is not None)
        return fairy

    monkeypatch.setattr(_fastlane, "take", watched)
    await use(db)

    def listener(*_):
        pass

    event.listen(db.sync_engine, name, listener)
    event.remove(db.sync_engine, name, listener)
    short.clear()
    await use(db)
    assert short == ([True, True] if lane == "fast" else [])
    await db.dispose()
    await use(db)
    assert short == ([True, True, True] if lane == "fast" else [])  # its first one is not there to be taken
