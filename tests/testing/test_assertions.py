"""What a test can assert of its connections: by the fixture, and by context managers for unittest and for no framework at all."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_poolguard import _pool
from sqla_poolguard.testing import ConnectionWatch, FakeDriver, max_concurrent, no_leaks, released_before_response

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")

SELECT = text("select 1")


async def hold(engine, seconds=0.0):
    """Hold a connection for some seconds."""
    async with engine.connect() as connection:
        await connection.execute(SELECT)
        await asyncio.sleep(seconds)


async def test_no_leaks(poolguard):
    """What has come back is none; what is out, or was left to the garbage collector, is told with its line."""
    engine = FakeDriver().engine()
    poolguard.assert_no_leaks()
    await hold(engine)
    poolguard.assert_no_leaks()
    async with engine.connect():
        with pytest.raises(AssertionError, match=r"still checked out at the end: .* in test_no_leaks"):
            poolguard.assert_no_leaks()
    poolguard.assert_no_leaks()
    await engine.connect()
    with pytest.raises(AssertionError, match=r"connection leaked: .*test_assertions.py:\d+ in test_no_leaks"):
        poolguard.assert_no_leaks()


async def test_background_tasks_may_settle(poolguard):
    """A task that is about to end is waited for; one that is not is told with what it awaits."""
    engine = FakeDriver().engine()
    tasks = [asyncio.create_task(hold(engine, 0.05)), asyncio.create_task(hold(engine, 60))]
    await asyncio.sleep(0.01)
    await poolguard.settle(0.1)
    with pytest.raises(AssertionError, match=r"background task at the end: [\s\S]* awaits asyncio sleep at .* in hold") as error:
        poolguard.assert_no_leaks()
    assert "times" not in str(error.value)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    poolguard.assert_no_leaks()


async def test_max_concurrent(poolguard):
    """The most that was out at one time counts, and its lines are told."""
    engine = FakeDriver().engine()
    poolguard.assert_max_concurrent(0)
    await asyncio.gather(*(hold(engine, 0.01) for _ in range(3)))
    await hold(engine)
    assert poolguard.most_concurrent == 3
    poolguard.assert_max_concurrent(3)
    with pytest.raises(
        AssertionError, match=r"3 connections were out at one time, 2 are allowed; checked out at(\n    .* in hold){3}"
    ):
        poolguard.assert_max_concurrent(2)


@pytest.mark.parametrize("most", [-1, 1.5, True, "1", None])
def test_max_concurrent_of_what(poolguard, most):
    """A figure that is none is an error."""
    with pytest.raises(ValueError, match=r"assert_max_concurrent\(.*\) is not allowed; allowed: a whole number, 0 or more"):
        poolguard.assert_max_concurrent(most)
    with pytest.raises(ValueError, match="is not allowed"), max_concurrent(most):
        raise AssertionError


async def test_leases_and_snapshot(poolguard):
    """Every lease is listed, and the only pool that was used can be looked at."""
    engine, other = FakeDriver().engine(), FakeDriver().engine()
    with pytest.raises(ValueError, match=r"wants one pool that was used; used were: none"):
        poolguard.snapshot()
    await hold(engine, 0.02)
    async with engine.connect():
        first, second = poolguard.leases
        assert (first.is_out, second.is_out, str(first.ending)) == (False, True, "checked_in")
        assert first.held >= 0.02
        assert first.site.function == "hold"
        assert [site.function for site in first.stack] == ["test_leases_and_snapshot"]
        assert poolguard.snapshot().used == 1
        assert poolguard.snapshot(other).used == 0
    await hold(other)
    with pytest.raises(ValueError, match=r"used were: 'postgresql.*', 'postgresql"):
        poolguard.snapshot()


async def ask(app, path="/"):
    """Send a request to an ASGI application; give what it sends."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    await app({"type": "http", "method": "GET", "path": path}, receive, send)
    return sent


def application(engine, *, early):
    """Make an application that gives its connection back before its response, or after it."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        async with AsyncSession(engine) as session:
            await session.execute(SELECT)
            if early:
                await session.commit()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return app


async def test_released_before_response(poolguard):
    """Who holds a connection while the response begins is told, with the request and the line; others at work are none of its."""
    engine = FakeDriver().engine()
    with pytest.raises(ValueError, match=r"sees only applications that were wrapped: give `poolguard.app\(app\)` to the client"):
        poolguard.assert_released_before_response()
    early, late = (poolguard.app(application(engine, early=early)) for early in (True, False))
    await early({"type": "lifespan"}, None, None)
    async with engine.connect():  # not the request's
        assert len(await ask(early)) == 2
    poolguard.assert_released_before_response()
    await ask(late, "/late")
    with pytest.raises(AssertionError, match=r"1 connections .*\n    GET /late: checked out at .* in application"):
        poolguard.assert_released_before_response()


async def test_released_before_response_block():
    """Likewise as a block."""
    engine = FakeDriver().engine()
    with released_before_response(application(engine, early=True)) as app:
        await ask(app)
    with pytest.raises(AssertionError, match="GET /"), released_before_response(application(engine, early=False)) as app:
        await ask(app)
    with pytest.raises(AssertionError, match="GET /"):
        async with released_before_response(application(engine, early=False)) as app:
            await ask(app)


async def test_blocks():
    """`async with` waits in the running loop, `with` in the loops that are there; what is not awaited fails."""
    engine = FakeDriver().engine()
    async with no_leaks() as watch:
        task = asyncio.create_task(hold(engine, 0.05))
        await asyncio.sleep(0.01)
    assert task.done()
    assert len(watch.leases) == 1
    with no_leaks(), max_concurrent(1):
        await hold(engine)
    with pytest.raises(AssertionError, match="connection leaked"):
        async with no_leaks():
            await engine.connect()
    with pytest.raises(AssertionError, match="2 connections were out at one time, 1 are allowed"), max_concurrent(1):
        await asyncio.gather(hold(engine, 0.01), hold(engine, 0.01))
    held = []
    with pytest.raises(AssertionError, match="2 connections were out at one time, 1 are allowed"):
        async with max_concurrent(1) as watch:
            await asyncio.gather(hold(engine, 0.01), hold(engine, 0.01))
    assert watch.most_concurrent == 2
    with pytest.raises(KeyError):  # an error goes first
        async with max_concurrent(0):
            await hold_and_fail(engine, [])
    with pytest.raises(KeyError), no_leaks():  # likewise
        await hold_and_fail(engine, held)
    await held[0].close()


def test_blocks_without_a_loop():
    """Around `asyncio.run`, and around a loop that is left."""
    engine = FakeDriver().engine()
    with no_leaks():
        asyncio.run(hold(engine))
    with pytest.raises(AssertionError, match="connection leaked"), no_leaks():
        asyncio.run(drop(engine))
    loop = asyncio.new_event_loop()
    with no_leaks():
        task = loop.create_task(hold(engine, 0.05))
        loop.run_until_complete(asyncio.sleep(0.01))
    assert task.done()
    loop.close()


async def hold_and_fail(engine, held):
    """Fail with a connection in hand."""
    held.append(await engine.connect())
    raise KeyError


async def drop(engine):
    """Drop a connection."""
    await engine.connect()


@pytest.mark.parametrize("quiesce", [-1, float("nan"), "1", True])
def test_block_with_a_wrong_argument(quiesce):
    """It names the value and what is allowed."""
    with pytest.raises(ValueError, match=r"no_leaks\(quiesce=.*\) is not allowed; allowed: a number of seconds, 0 or more"):
        no_leaks(quiesce)


def test_the_doors_are_left_as_they_were():
    """When nobody watches any more, a checkout is what it was; one watch inside another sees the same."""
    connect, back = vars(_pool.GuardedPool)["connect"], vars(_pool.GuardedPool)["_do_return_conn"]
    engine = FakeDriver().engine()
    with ConnectionWatch() as outer:
        with ConnectionWatch() as inner:
            asyncio.run(hold(engine))
        assert vars(_pool.GuardedPool)["connect"] is not connect
        asyncio.run(hold(engine))
    assert (len(outer.leases), len(inner.leases)) == (2, 1)
    assert vars(_pool.GuardedPool)["connect"] is connect
    assert vars(_pool.GuardedPool)["_do_return_conn"] is back


def test_without_pytest():
    """Nothing of it needs pytest."""
    code = "import sys; sys.modules['pytest'] = None; import sqla_poolguard.testing as t; print(*t.__all__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert "no_leaks" in done.stdout, done.stderr
