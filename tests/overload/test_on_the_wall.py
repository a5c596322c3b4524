"""The experiments on the wall clock: that they show what happens. What is demanded is measured by the command, not here: machines are noisy."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from pathlib import Path

import pytest
from doubles.database import Kind, Outage
from doubles.virtual import until

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.overload.asking import Asking
from benchmarks.overload.experiments import Figure, changing, fall, shown, steady
from benchmarks.overload.fault import Proxy
from benchmarks.overload.stalls import Stalls
from benchmarks.overload.wall import CONNECTIONS, bench, refused_share, worked
from sqla_poolguard._cli.embedded import EmbeddedPostgres

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server():
    """Give a PostgreSQL that may be frozen."""
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture(autouse=True)
async def nothing_is_left():
    """Let what was closed be closed, before the loop is."""
    yield
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("pool", ["guarded", "stock"])
async def test_too_much_is_asked(pool, server):
    """Both serve a quiet time; at 4x ours says no to many within a moment, and stock lets its clients wait until they leave."""
    async with bench(pool, server, fails=False) as running:
        quiet = await running.play(steady(0.3, warmup=0.0, seconds=3.0), 1)
        assert (quiet.served((0.0, 2.0)), refused_share(quiet)) == (1.0, 0.0)
        assert {attempt.granted is not None for attempt in quiet.attempts if attempt.answered} == {True}
        busy = await running.play(changing((0.0, 4.0), warmup=1.0, seconds=4.0, retries=1), 1)
        assert worked(busy, 0.0, 1.0) > CONNECTIONS / 4
        gone = [attempt for attempt in busy.attempts if attempt.gone]
        if pool == "guarded":
            assert refused_share(busy) > 0.4
            assert busy.time_to_refusal(0.5) < 0.5
        else:
            assert refused_share(busy) == 0
            assert len(gone) > 0.3 * len(busy.attempts)
            assert any(attempt.granted for attempt in gone), "the server does not notice"


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.BLACK_HOLE, Kind.HUNG])
async def test_the_database_fails(kind, server):
    """It is served before and after it, and not meanwhile; who waits in vain is told."""
    async with bench("guarded", server, fails=True) as running:
        outcome = await fall(running, 1, Outage(kind, 1.0, 4.0), after=4.0)
        assert worked(outcome, 0.0, 1.0) > 0
        assert worked(outcome, 2.0, 3.9) == 0
        assert worked(outcome, 6.0, 8.0) > CONNECTIONS / 4
        assert outcome.time_to_error(0.5, (2.5, 4.0)) < 0.5
        assert 0 < len(outcome.connects) < 40 or kind is Kind.HUNG


async def test_the_proxy_fails_and_heals():
    """Refused, a black hole, and then the same bytes as before, on the same port."""

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def ask():
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            writer.write(b"hello")
            async with asyncio.timeout(0.5):
                return await reader.read(100)
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(*server.sockets[0].getsockname())
    await proxy.start()
    for kind, error in ((Kind.REFUSED, ConnectionRefusedError), (Kind.BLACK_HOLE, TimeoutError)):
        assert await ask() == b"hello"
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.fail(kind)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"", "what was open is dropped"
        writer.close()
        with pytest.raises(error):
            await ask()
        await proxy.heal()
    assert await ask() == b"hello"
    await proxy.stop()
    server.close()


async def test_who_leaves_is_not_waited_for():
    """A line is used again when it was answered, and closed when its client left or the service did."""
    lines = []

    async def serve(reader, writer):
        lines.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"GET /never" not in head:
                    writer.write(b"HTTP/1.1 503 No\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nbu")
                    await asyncio.sleep(0.01)
                    writer.write(b"sy")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    asking = Asking(server.sockets[0].getsockname()[1])
    assert [await asking.get("/") for _ in range(3)] == [(503, 3.0, b"busy")] * 3
    assert len(lines) == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await asking.get("/never")
    assert (await asking.get("/")).status == 503
    assert len(lines) == 2
    lines[-1].transport.abort()
    await until(lambda: asking._idle[-1].is_closed)
    assert (await asking.get("/")).body == b"busy"
    assert len(lines) == 3
    asking.close()
    server.close()


def test_figures():
    """A figure that was not seen is not met; nobody was told, or it never came back."""
    assert Figure("a", 0.95, 0.95, at_least=True).is_met
    assert not Figure("a", 0.94, 0.95, at_least=True).is_met
    assert not Figure("a", 1.2, 1.1).is_met
    assert not Figure("a", math.nan, 1.1).is_met
    assert not Figure("a", math.nan, 1.1, at_least=True).is_met
    assert [Figure("a", 1, 1.1).demanded, Figure("a", 1, 0.95, at_least=True).demanded] == ["<= 1.1", ">= 0.95"]
    assert [shown(figure) for figure in (math.nan, math.inf, 0.12345)] == ["none", "never", "0.123"]


async def test_stalls():
    """A loop that did not run is seen, once it does again, and forgotten when that is told."""
    stalls = Stalls()
    await asyncio.sleep(0.05)
    stalls.forget()
    time.sleep(0.2)  # noqa: ASYNC251 - this is what is to be seen
    await asyncio.sleep(0.03)
    assert 0.18 < stalls.longest < 2
    stalls.forget()
    assert stalls.longest == 0
    stalls.stop()
