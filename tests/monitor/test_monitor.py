"""PoolMonitor on real servers: what it joins, what it warns of, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from contextlib import AsyncExitStack

import asyncpg
import pytest
from doubles.bouncer import PgBouncer
from monitor.conftest import as_app, judge_of, until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import GuardedPool, snapshot
from sqla_poolguard._cli.embedded import EmbeddedPostgres
from sqla_poolguard._monitored import monitored
from sqla_poolguard.monitor import Alarm, PoolMonitor

pytestmark = pytest.mark.postgres

PID = text("SELECT pg_backend_pid()")
LOCK = text("UPDATE accounts SET money = 1 WHERE id = 1")
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"


async def none_left(server):
    """Wait until no session of the role is left."""
    async with judge_of(server) as judge:
        async with asyncio.timeout(20):
            while await judge.fetchval(SESSIONS):  # noqa: ASYNC110 - the server tells no event
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+psycopg_async"])
async def test_holders_are_joined_with_their_sessions(server, connect, driver):
    """Each holder has the session that its own connection names; who waits for a lock, and for whose line, is told."""
    db = connect(as_app(server, driver), pool_size=3, max_overflow=0)

    async def locker():
        async with db.connect() as connection:
            pids["locker"] = await connection.scalar(PID)
            await connection.execute(LOCK)
            await done.wait()

    async def waiter():
        async with db.connect() as connection:
            pids["waiter"] = await connection.scalar(PID)
            await connection.execute(LOCK)

    pids, done = {}, asyncio.Event()
    async with PoolMonitor(db, interval=0.05) as monitor:
        locking = asyncio.create_task(locker())
        await until(lambda: any(row.session and row.session.locks > 1 for row in monitor.rows()))
        waiting = asyncio.create_task(waiter())
        await until(lambda: any(row.blocked_by for row in monitor.rows()))
        assert monitored(db.pool).rows == monitor.rows()
        rows = {row.session.pid: row for row in monitor.rows()}
        assert set(rows) == set(pids.values())
        first, second = rows[pids["locker"]], rows[pids["waiter"]]
        assert (first.session.state, first.blocks) == ("idle in transaction", 1)
        assert first.holder.site.function.endswith("locker")
        assert (second.session.state, second.blocks) == ("active", 0)
        assert second.session.waits_for == "Lock: transactionid"
        assert [blocker.holder for blocker in second.blocked_by] == [first.holder]
        assert str(second.blocked_by[0]).endswith(f"locker (pid {pids['locker']})")
        assert snapshot(db).used == 2, "the monitor holds nothing"
        async with judge_of(server) as judge:
            assert await judge.fetchval(SESSIONS) == 3, "two of the pool, one of the monitor"
        done.set()
        await asyncio.gather(locking, waiting)
        await until(lambda: monitor.rows() == ())
    await db.dispose()
    await none_left(server)


async def test_warnings_once_per_episode(newest, connect, alarms, caplog):
    """Each alarm is told once while it lasts, with the line; and again when it comes again."""
    db = connect(as_app(newest), pool_size=2, max_overflow=0)

    async def work():
        async with db.connect() as connection:
            await connection.execute(LOCK)
            await end.wait()

    end = asyncio.Event()
    options = {"idle_in_transaction": 0.2, "starvation": 0.2, "near_capacity": 0.5, "sustained": 0.2, "slots_low": None}
    async with PoolMonitor(db, interval=0.05, **options) as monitor:
        for episode in (1, 2):
            end.clear()
            tasks = [asyncio.create_task(work()) for _ in range(3)]
            await until(lambda number=episode: len(alarms("stale_idle_in_transaction")) == number)
            await until(
                lambda number=episode: sum(r.levelno == logging.WARNING for r in alarms("pool_starvation_detected")) == number
            )
            await asyncio.sleep(0.3)
            assert len(alarms("stale_idle_in_transaction")) == episode
            end.set()
            await asyncio.gather(*tasks)
            await until(lambda number=episode: sum("over" in r.getMessage() for r in alarms("pool_near_capacity")) == number)
        assert monitor.is_running
    near = [record for record in alarms("pool_near_capacity") if record.levelno == logging.WARNING]
    assert [record.poolguard.kind for record in near] == ["pool_near_capacity"] * 2
    starved = next(record for record in alarms("pool_starvation_detected") if record.levelno == logging.WARNING)
    assert "pool 'orders': 1 wait, the oldest for 0." in starved.getMessage()
    assert "; 1 session waits for a lock held at " in starved.getMessage()
    stale = alarms("stale_idle_in_transaction")[0]
    assert isinstance(stale.poolguard, Alarm)
    assert "work" in stale.getMessage()
    assert "1 session waits for it" in stale.getMessage()
    assert "accounts" not in caplog.text, "no SQL"
    await db.dispose()
    await none_left(newest)


async def test_a_lock_of_a_stranger_is_named(newest, connect, alarms):
    """Where the lock is held outside of this process, its process on the server and its application are named."""
    db = connect(as_app(newest), pool_size=1, max_overflow=0)
    stranger = await asyncpg.connect(newest.url("postgresql"), server_settings={"application_name": "night job"})
    transaction = stranger.transaction()
    await transaction.start()
    await stranger.execute("UPDATE accounts SET money = 2 WHERE id = 1")

    async def work():
        async with db.connect() as connection:
            await connection.execute(LOCK)

    async with PoolMonitor(db, interval=0.05, starvation=0.1, slots_low=None):
        tasks = [asyncio.create_task(work()) for _ in range(2)]
        await until(lambda: alarms("pool_starvation_detected"))
        await transaction.rollback()
        await asyncio.gather(*tasks)
    said = alarms("pool_starvation_detected")[0].getMessage()
    pid = stranger.get_server_pid()
    await stranger.close()
    assert said.endswith(f"they wait for a lock of pid {pid} of 'night job', which is not of this process")
    await db.dispose()


async def test_few_slots_and_none(newest, connect, alarms):
    """The room that the role has is told when it gets little, also to one who sees nothing else of others, and when it is none."""
    db = connect(as_app(newest))
    strangers = []

    async def fill(total):
        """Have so many sessions on the server, ours included."""
        async with asyncio.timeout(20):
            while (
                there := await strangers[0].fetchval("SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL")
            ) != total:
                if there < total:
                    strangers.append(await asyncpg.connect(newest.url("postgresql")))
                else:
                    await asyncio.sleep(0.02)

    strangers.append(await asyncpg.connect(newest.url("postgresql")))
    async with PoolMonitor(db, interval=0.05, slots_low=3):
        await fill(13)
        await asyncio.sleep(0.3)
        assert alarms("server_slots_low") == [], "4 of 17 are free"
        await fill(14)
        await until(lambda: alarms("server_slots_low"))
    said = alarms("server_slots_low")[0].getMessage()
    assert said == "server_slots_low: pool 'orders': 3 of 17 slots are free; this pool has 0"
    await fill(17)
    async with PoolMonitor(db, interval=0.05, slots_low=3):
        await until(lambda: len(alarms("server_slots_low")) == 2)
    assert "the server has no room for another connection" in alarms("server_slots_low")[1].getMessage()
    for stranger in strangers:
        await stranger.close()
    await db.dispose()


async def test_few_slots_of_the_server_where_the_role_has_many(newest, connect, alarms):
    """The limit that leaves the least is told, which is not always the smallest one; and which it is."""
    url = as_app(newest, "postgresql").replace("//app:", "//limited:")
    db = connect(url.replace("postgresql:", "postgresql+asyncpg:"))
    async with AsyncExitStack() as open_:

        async def sessions(address, count):
            for _ in range(count):
                open_.push_async_callback((await asyncpg.connect(address)).close)

        async with judge_of(newest) as judge:
            await judge.execute("CREATE ROLE limited LOGIN PASSWORD 'secret-of-app' CONNECTION LIMIT 10")
        await sessions(newest.url("postgresql"), 13)
        async with PoolMonitor(db, interval=0.05, slots_low=3):
            await until(lambda: alarms("server_slots_low"))
        assert " of 17 slots are free" in alarms("server_slots_low")[0].getMessage()
        await open_.aclose()
        async with judge_of(newest) as judge, asyncio.timeout(20):
            while await judge.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL") > 2:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        await sessions(url, 6)
        async with PoolMonitor(db, interval=0.05, slots_low=3):
            await until(lambda: len(alarms("server_slots_low")) == 2)
        assert "3 of 10 slots of the role's limit are free" in alarms("server_slots_low")[1].getMessage()
    await db.dispose()


async def test_a_server_that_goes_and_comes_back(connect, caplog, alarms):
    """It says once that it cannot ask, watches the pool meanwhile, and says once that it can again."""
    with EmbeddedPostgres() as server:
        db = connect(server.url(), pool_size=1, max_overflow=0)
        async with PoolMonitor(db, interval=0.05, near_capacity=1.0, sustained=0, timeout=1) as monitor:
            async with db.connect() as connection:
                await connection.execute(text("SELECT 1"))
                await until(lambda: any(row.session for row in monitor.rows()))
                server.crash()
                await until(lambda: "the monitor cannot ask the server" in caplog.text)
                await until(lambda: any(row.session is None for row in monitor.rows()))
                assert monitored(db.pool).trouble == "the server cannot be asked"
                assert alarms("pool_near_capacity")
                await connection.invalidate()
            await asyncio.sleep(0.5)
            server.restart()
            await until(lambda: "the monitor can ask the server again" in caplog.text)
        assert caplog.text.count("the monitor cannot ask the server") == 1
        assert server._password not in caplog.text
        await db.dispose()


@pytest.mark.parametrize(("version", "mode"), [("1.18", "session"), ("1.24", "transaction")])
async def test_behind_a_pooler_nothing_is_invented(newest, connect, caplog, version, mode):
    """Processes that the driver knows are the pooler's: it says so once, and shows holders without a session."""
    with PgBouncer(version, newest, mode=mode) as bouncer:
        options = {"connect_args": {"statement_cache_size": 0}} if version == "1.18" else {}
        db = connect(bouncer.url(), **options)
        async with PoolMonitor(db, interval=0.05, slots_low=20) as monitor, db.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await until(lambda: "behind a pooler" in caplog.text and monitor.rows())
            assert [row.session for row in monitor.rows()] == [None]
            assert monitored(db.pool).trouble == "behind a pooler the sessions of connections cannot be told"
            await until(lambda: "server_slots_low" in caplog.text)
            await asyncio.sleep(0.2)
        assert caplog.text.count("behind a pooler") == 1
        assert "cannot ask" not in caplog.text
        await db.dispose()


async def test_a_stalled_server_is_given_up_and_stopping_takes_no_time(newest, connect, caplog, monkeypatch):
    """A server that does not answer is left after `timeout`, nothing goes on there, and `stop()` waits for nothing."""
    monkeypatch.setattr("sqla_poolguard._monitor.server.ACTIVITY_SQL", "SELECT pg_sleep(600)")
    db = connect(as_app(newest))
    loop = asyncio.get_running_loop()
    async with PoolMonitor(db, interval=0.05, timeout=0.3):
        await until(lambda: "the monitor cannot ask the server (refused): TimeoutError" in caplog.text)
        await asyncio.sleep(0.5)
        begun = loop.time()
    assert loop.time() - begun < 2
    await db.dispose()
    await none_left(newest)


@pytest.fixture
async def unheard():
    """Give what the event loop was told of errors that nobody retrieved; there must be none at the end."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    yield told
    gc.collect()
    assert told == []


def others():
    """Give the tasks beside this one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_stopping_during_a_connect_leaves_nothing_behind(newest, connect, unheard):
    """Whenever it is stopped: no task, no connection, and no future of asyncpg's whose exception nobody retrieves."""
    db = connect(as_app(newest))
    monitor = PoolMonitor(db, interval=0.05)
    for turns in (*range(10), 20, 40, 80):
        monitor.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await monitor.stop()
        assert others() == set()
        gc.collect()
        assert unheard == [], f"stopped after {turns} turns"
    await none_left(newest)


@pytest.mark.parametrize("again", [False, True], ids=["once", "cancelled_meanwhile"])
async def test_stopping_while_the_server_says_nothing_takes_no_time(connect, unheard, again):
    """A server that takes the connection and is silent: the connect has a moment, then it is given up, and its socket is closed."""
    came, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader, writer):
        came.set()
        while await reader.read(1000):
            pass
        gone.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monitor = PoolMonitor(connect(f"postgresql+asyncpg://app@127.0.0.1:{port}/x"), timeout=60)
        monitor.start()
        await came.wait()
        begun = asyncio.get_running_loop().time()
        task = monitor._task
        stopping = asyncio.create_task(monitor.stop())
        if again:
            await asyncio.sleep(0.02)
            task.cancel()
        await stopping
        assert asyncio.get_running_loop().time() - begun < 2
        await gone.wait()
        await until(lambda: all("silent" in repr(other) for other in others()), 2)


async def test_a_connect_that_cannot_be_cancelled_does_not_keep_it(newest, unheard):
    """Whoever makes the application's connections may take its time; what comes of it later is closed."""
    end = asyncio.Event()

    async def stubborn():
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        return await asyncpg.connect(as_app(newest, "postgresql"))

    db = create_async_engine("postgresql+asyncpg://", poolclass=GuardedPool, async_creator=stubborn)
    monitor = PoolMonitor(db)
    monitor.start()
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await monitor.stop()
    end.set()
    await until(lambda: others() == set())
    await none_left(newest)


async def test_a_connect_that_takes_too_long_is_given_up(newest, connect, caplog, monkeypatch, unheard):
    """After `timeout` it is tried again later; what the first brings nobody sees."""
    monkeypatch.setattr("sqla_poolguard._monitor.server.LIMITS_SQL", "SELECT pg_sleep(0.5)")
    db = connect(as_app(newest))
    async with PoolMonitor(db, interval=0.05, timeout=0.1):
        await until(lambda: "the monitor cannot ask the server" in caplog.text)
        await none_left(newest)
    assert others() == set()


async def test_a_connect_during_which_the_loop_stands_still_leaves_nothing_behind(newest, connect, unheard):
    """Where its time is up only because nothing ran, it has a moment more, and is not cut off at the first step after that."""
    db = connect(as_app(newest))
    for turns in range(2, 7):
        async with PoolMonitor(db, interval=0.05, timeout=0.1):
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(0.11)  # noqa: ASYNC251 - that is what applications do
            await until(lambda: monitored(db.pool) is not None)
    assert others() == set()
    await none_left(newest)


async def test_a_loop_that_stands_still_is_no_starvation(newest, connect, alarms):
    """Who waits while the application keeps the event loop busy is served as soon as it runs: nobody is blamed."""
    db = connect(as_app(newest), pool_size=1, max_overflow=0)

    async def work(seconds):
        async with db.connect():
            await asyncio.sleep(0.1)
            time.sleep(seconds)  # noqa: ASYNC251 - that is what applications do
            await asyncio.sleep(0.1)

    async with db.connect():  # so that nobody waits for the connect
        pass
    async with PoolMonitor(db, interval=0.05, starvation=2.0, near_capacity=None):
        await asyncio.gather(work(2.2), work(0))
    assert alarms("pool_starvation_detected") == []
    await db.dispose()


async def test_it_starts_once_and_again(newest, connect):
    """It cannot run twice at a time; it can be started anew, and stopping what does not run is nothing."""
    db = connect(as_app(newest))
    monitor = PoolMonitor([db], interval=0.05)
    await monitor.stop()
    for _ in range(2):
        monitor.start()
        with pytest.raises(RuntimeError, match=r"^this PoolMonitor runs already$"):
            monitor.start()
        await asyncio.sleep(0.1)
        assert repr(monitor) == "<PoolMonitor of 'orders': running>"
        await monitor.stop()
        assert not monitor.is_running
    await none_left(newest)


def test_it_dies_with_its_loop(newest, connect):
    """A monitor that nobody stops ends with the loop, and leaves no connection behind."""
    db = connect(as_app(newest))

    async def forget():
        PoolMonitor(db, interval=0.05).start()
        await asyncio.sleep(0.2)

    asyncio.run(forget())
    gc.collect()
    asyncio.run(none_left(newest))


async def test_it_follows_the_engine_through_a_disposal(newest, connect):
    """After `dispose()` it watches the pool that has come, and still who holds a connection of the old one."""
    db = connect(as_app(newest), pool_size=1, max_overflow=0)
    async with PoolMonitor(db, interval=0.05) as monitor:
        old = await db.connect()
        pids = {await old.scalar(PID)}
        await db.dispose()
        new = await db.connect()
        pids.add(await new.scalar(PID))
        await until(lambda: {row.session.pid for row in monitor.rows() if row.session} == pids)
        await old.close()
        await new.close()
    await db.dispose()
    await none_left(newest)
