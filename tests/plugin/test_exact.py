"""Exact mode: every await of a holder is seen and timed, whatever it is; what is none is not accused."""

from __future__ import annotations

import re

import pytest

LEAKS = {
    "sleep": ("await asyncio.sleep(0.05)", "asyncio sleep"),
    "event": ("e = asyncio.Event(); asyncio.get_running_loop().call_later(0.05, e.set)\nawait e.wait()", "asyncio Event.wait"),
    "lock": (
        "lock = asyncio.Lock(); await lock.acquire(); asyncio.get_running_loop().call_later(0.05, lock.release)\nawait lock.acquire()",
        "asyncio Lock.acquire",
    ),
    "queue": (
        "q = asyncio.Queue(); asyncio.get_running_loop().call_later(0.05, q.put_nowait, 1)\nawait q.get()",
        "asyncio Queue.get",
    ),
    "future": ("f = asyncio.Future(); asyncio.get_running_loop().call_later(0.05, f.set_result, 1)\nawait f", "a future"),
    "thread": ("import time\nawait asyncio.to_thread(time.sleep, 0.05)", "asyncio to_thread"),
    "gather": ("await asyncio.gather(asyncio.sleep(0.05), asyncio.sleep(0.01))", "asyncio gather"),
    "task": ("await asyncio.create_task(asyncio.sleep(0.05))", "task"),
    "shield": ("await asyncio.shield(asyncio.sleep(0.05))", "asyncio shield"),
    "wait_for": ("await asyncio.wait_for(asyncio.sleep(0.05), 1)", "asyncio"),
    "timeout": ("async with asyncio.timeout(1): await asyncio.sleep(0.05)", "asyncio sleep"),
    "many_tiny": ("for _ in range(20): await asyncio.sleep(0.003)", "asyncio sleep"),
    "anyio": ("await anyio.sleep(0.05)", "anyio sleep"),
    "gather_query": ("await asyncio.gather(connection.execute(SELECT), asyncio.sleep(0.1))", "asyncio gather"),
    "gather_then": ("await asyncio.gather(query_then(connection, 0.05), asyncio.sleep(0))", "asyncio"),
    "group_query": ("await query_beside(connection, 0.1)", "asyncio TaskGroup"),
    "group_body": (
        "async with asyncio.TaskGroup() as group:\n    group.create_task(connection.execute(SELECT))\n    await asyncio.sleep(0.1)",
        "asyncio sleep",
    ),
    "other_pool": ("await slowly(slow_engine(0.05), 0)", "asyncio sleep"),
    "as_completed": (
        "for each in asyncio.as_completed([connection.execute(SELECT), asyncio.sleep(0.1)]): await each",
        "asyncio",
    ),
    "queue_join": ("async with works(lambda _: asyncio.sleep(0.03)) as queue: await queue.join()", "asyncio Queue.join"),
    "queue_join_beside": (
        "await connection.execute(SELECT)\nasync with works(lambda _: slowly(slow_engine(0.03), 0)) as queue: await queue.join()",
        "asyncio Queue.join",
    ),
    "event_of_a_task": ("await until_set(connection, lambda _: asyncio.sleep(0.05))", "asyncio Event.wait"),
    "memory_stream": ("await receive(connection, lambda _: asyncio.sleep(0.05))", "asyncio sleep"),
}
IN_TURN = {
    "as_completed": "for each in asyncio.as_completed([connection.execute(SELECT)]): await each",
    "queue_join": "async with works(lambda _: connection.execute(SELECT)) as queue: await queue.join()",
    "event_of_a_task": "await until_set(connection, lambda connection: connection.execute(SELECT))",
    "memory_stream": "await receive(connection, lambda connection: connection.execute(SELECT))",
    "polls": "task = asyncio.create_task(connection.execute(SELECT))\nwhile not task.done(): await asyncio.sleep(0.005)",
    "commits": "await until_set(connection, lambda connection: connection.commit())",
}
"""Others use the connection, while its holder waits for what they tell it, not for them."""
INNOCENT = {
    "query": "await connection.execute(SELECT)",
    "queries": "for _ in range(5): await connection.execute(SELECT)",
    "run_sync": "await connection.run_sync(lambda sync: sync.execute(SELECT))",
    "short": "await asyncio.sleep(0.001)",
    "yields": "for _ in range(50): await asyncio.sleep(0)",
    "cpu": "import time; time.sleep(0.05)",
    "wait_for_query": "await asyncio.wait_for(connection.execute(SELECT), 1)",
    "gather_short": "await asyncio.gather(connection.execute(SELECT), asyncio.sleep(0.005))",
    "gather_queries": "await asyncio.gather(queries(connection), asyncio.sleep(0.015))",
    "declared": 'with allow_hold("a cursor"): await asyncio.sleep(0.05)',
    "cancelled": "with contextlib.suppress(TimeoutError):\n    async with asyncio.timeout(0.01): await connection.execute(SELECT)",
}
INNOCENTS = {**INNOCENT, **{f"{name}_in_turn": body for name, body in IN_TURN.items()}}
ENGINES = """
    async def query_then(connection, seconds):
        await connection.execute(SELECT)
        await asyncio.sleep(seconds)

    async def query_beside(connection, seconds):
        async with asyncio.TaskGroup() as group:
            group.create_task(connection.execute(SELECT))
            group.create_task(asyncio.sleep(seconds))

    @contextlib.asynccontextmanager
    async def works(work):
        queue = asyncio.Queue()
        async def worker():
            while True:
                await queue.get()
                await work(0)
                queue.task_done()
        task = asyncio.create_task(worker())
        for each in range(2): queue.put_nowait(each)
        yield queue
        task.cancel()

    async def until_set(connection, work):
        event = asyncio.Event()
        async def other():
            await work(connection)
            event.set()
        task = asyncio.create_task(other())
        await event.wait()
        await task

    async def receive(connection, work):
        send, receive = anyio.create_memory_object_stream()
        async def other():
            async with send:
                await work(connection)
                await send.send(1)
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            async for _ in receive: pass

    async def queries(connection):
        for _ in range(4):
            await connection.execute(SELECT)

    def slow_engine(seconds):
        return FakeDriver(execute="slow", rollback="slow", delay=seconds).engine()

    @pytest.fixture
    def engine():
        return slow_engine({delay})
"""


def test_of(name, body):
    """Write a test that does something with a connection that it has used; not one itself."""
    lines = "\n            ".join(body.splitlines())
    return f"""
    async def test_{name}(engine):
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            {lines}
"""


test_of.__test__ = False


def test_every_foreign_await_is_seen(suite):
    """Whatever a holder awaits, the line and what it awaits are told, and for how long."""
    source = ENGINES.format(delay=0.001) + "".join(test_of(name, body) for name, (body, _) in LEAKS.items())
    run = suite(source, poolguard_max_foreign_await="0.02")
    assert set(run.blamed) == {f"test_{name}" for name in LEAKS}, run.text
    for name, (_, awaiting) in LEAKS.items():
        told = run.blamed[f"test_{name}"]
        assert re.search(
            rf"which awaits {re.escape(awaiting)}.* at test_it.py:\d+ in (test_{name}|slowly|query_then|query_beside|until_set|receive.*)",
            told,
        ), told
        assert "connection held across an await" in told
        assert float(re.search(r"for (0\.\d+) s, 0.02 s are allowed; held", told)[1]) > 0.03


def test_in_uvloop(suite):
    """Likewise in uvloop."""
    leaks = {name: body for name, (body, _) in LEAKS.items()}
    source = ENGINES.format(delay=0.001) + "".join(test_of(name, body) for name, body in {**leaks, **INNOCENTS}.items())
    run = suite(
        source,
        poolguard_max_foreign_await="0.03",
        conftest="""
    @pytest.fixture(scope="session")
    def event_loop_policy():
        import uvloop
        return uvloop.EventLoopPolicy()
    """,
    )
    assert set(run.blamed) == {f"test_{name}" for name in LEAKS}, run.text


def test_what_is_no_foreign_await(suite):
    """The database may take as long as it likes, a reset too; so may CPU, short awaits, and what was declared."""
    source = ENGINES.format(delay=0.08) + "".join(test_of(name, body) for name, body in INNOCENTS.items())
    run = suite(source, poolguard_max_foreign_await="0.06")
    assert run.blamed == {}, run.text
    assert set(run.results.values()) == {"passed"}


SQLITE = """
    SELECT = text("with recursive some(x) as (select 1 union all select x + 1 from some where x < 400000) select count(*) from some")

    @pytest.fixture
    async def engine(tmp_path):
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db", poolclass=GuardedPool)
        yield engine
        await engine.dispose()
"""


def test_driver_that_does_not_tell(suite):
    """Of aiosqlite it is not known whether it works: what SQLAlchemy asks of it is counted, and the holder believed, while it is followed."""
    names = ("as_completed", "queue_join", "event_of_a_task", "memory_stream")
    source = ENGINES.format(delay=0.001) + SQLITE
    source += "".join(test_of(f"{name}_in_turn", IN_TURN[name]) for name in names)
    longer = {
        name: LEAKS[name][0].replace("0.05", "0.3").replace("0.03", "0.15") for name in (*names[1:], "event", "gather_then")
    }
    source += "".join(test_of(name, body) for name, body in longer.items())
    source += """
    def test_what_is_left():
        from sqla_poolguard._testing import uses
        assert not uses._counted
"""
    run = suite(source, poolguard_max_foreign_await="0.1")  # its thread works, and whoever awaits it comes late
    assert set(run.blamed) == {f"test_{name}" for name in longer}, run.text
    assert "the database" not in re.sub(r"\d in database", "", run.text)


def test_a_test_may_await_longer(suite):
    """The marker says for how long; a fixture's connection is not the test's."""
    run = suite(
        """
    @pytest.fixture
    async def connection(engine):
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            yield connection

    @pytest.mark.poolguard(max_await=0.2)
    async def test_longer(engine):
        await slowly(engine, 0.05)

    @pytest.mark.poolguard(max_await="none")
    async def test_any(engine):
        await slowly(engine, 0.05)

    @pytest.mark.poolguard(max_await=0.001)
    async def test_shorter(engine):
        await slowly(engine, 0.02)

    @pytest.mark.poolguard(allow_hold="a cursor")
    async def test_allowed(engine):
        await slowly(engine, 0.05)

    async def test_fixture(connection):
        await asyncio.sleep(0.05)
    """,
        poolguard_max_foreign_await="0.03",
    )
    assert set(run.blamed) == {"test_shorter"}, run.text


def test_ledger_of_a_leak(suite):
    """What nobody used is told as such, not as CPU."""
    lines = []
    suite(
        """
    async def leave(engine):
        KEPT.append(await engine.connect())

    async def test_it(engine):
        await asyncio.create_task(leave(engine))
        await asyncio.sleep(0.05)
    """,
        "--poolguard-ledger",
        conftest=TELL,
        told=lines,
    )
    told = [line for line in lines if isinstance(line, str)]
    assert told[0] == "test_it.py::test_it"
    assert re.search(r"held \d+ ms = 0 in database \(0 waits\) \+ \d\d+ awaiting elsewhere \+ \d CPU", told[1]), told
    assert re.search(r"\d+ ms  nobody: its task has finished at test_it.py:\d+ in leave", told[2])


TELL = """
    def pytest_unconfigure(config):
        from sqla_poolguard import pytest_plugin
        KEPT.extend(config.stash[pytest_plugin._DESK].tally.ledger)
"""
LEDGER = """
    import time
    from sqlalchemy.ext.asyncio import create_async_engine

    async def work(engine):
        async with engine.connect() as connection:
            await connection.execute({statement})
            await asyncio.sleep(0.2)
            time.sleep(0.06)
            await asyncio.sleep(0.1)
            for _ in range(10):
                await asyncio.sleep(0.005)

    async def test_it():
        engine = {engine}
        await work(engine)
        await engine.dispose()

    def test_nothing():
        pass
"""


@pytest.mark.parametrize("driver", ["fake", "asyncpg", "psycopg"])
def test_ledger(suite, driver, request):
    """Each test's leases are told by what their time went for, by line; also of real PostgreSQL."""
    statement, engine = "SELECT", "FakeDriver(execute='slow', delay=0.05).engine()"
    if driver != "fake":
        url = request.getfixturevalue("postgres_url").replace("postgresql:", f"postgresql+{driver}:")
        statement, engine = "text('select pg_sleep(0.05)')", f"create_async_engine({url!r}, poolclass=GuardedPool)"
    lines = []
    suite(
        LEDGER.format(statement=statement, engine=engine),
        "--poolguard-ledger",
        conftest=TELL,
        told=lines,
    )
    assert lines[0] == "test_it.py::test_it"
    held, database, elsewhere, cpu = map(
        int,
        re.search(r"held (\d+) ms = (\d+) in database \(\d+ waits\) \+ (\d+) awaiting elsewhere \+ (\d+) CPU", lines[1]).groups(),
    )
    assert abs(held - database - elsewhere - cpu) <= 2
    assert 40 <= database < 300
    assert 345 <= elsewhere < 600
    assert 60 <= cpu < 300
    assert [line.split("asyncio sleep at test_it.py:")[1].split(" in ")[1] for line in lines[2:]] == ["work"] * 3
    assert [int(line.split()[0]) >= least for line, least in zip(lines[2:], (195, 95, 45), strict=True)] == [True] * 3
