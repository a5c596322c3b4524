"""What fixtures keep, and where: sessions, tasks, threads, servers. What is theirs is not the test's."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")

ENDS_TASKS = """
    @pytest.fixture
    async def spawn():
        tasks = []
        yield lambda coroutine: tasks.append(asyncio.create_task(coroutine))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @pytest.fixture
    def forgets():
        tasks = []
        yield lambda coroutine: tasks.append(asyncio.create_task(coroutine))

    async def test_ended_by_fixture(engine, spawn):
        spawn(slowly(engine, 60))
        await asyncio.sleep(0.01)

    async def test_ended_by_nobody(engine, forgets):
        forgets(slowly(engine, 60))
        await asyncio.sleep(0.01)

    async def test_after(engine):
        await slowly(engine, 0)
"""


def test_fixture_ends_tasks_of_the_test(suite):
    """A task that a fixture ends with the test may hold until then; one that ends only with the event loop may not."""
    run = suite(ENDS_TASKS, poolguard_quiesce="0.05")
    assert run.results == {"test_ended_by_fixture": "passed", "test_ended_by_nobody": "error", "test_after": "passed"}, run.text
    assert "connection held by a background task at the end" in run.blamed["test_ended_by_nobody"]
    assert "at test_it.py:22 in slowly" in run.blamed["test_ended_by_nobody"]


SLOW_TEARDOWN = """
    @pytest.fixture
    async def session(engine):
        async with AsyncSession(engine) as session:
            yield session

    @pytest.fixture
    async def slow(session):
        yield
        await asyncio.sleep(0.2)

    async def test_innocent(session, slow):
        await session.execute(SELECT)

    async def test_guilty(session, slow):
        await session.execute(SELECT)
        await asyncio.sleep(0.2)
"""


@pytest.mark.parametrize("option", ["poolguard_max_foreign_await", "poolguard_max_hold"])
def test_slow_fixture_is_not_the_tests(suite, option):
    """What fixtures take to end is not held against the test."""
    run = suite(SLOW_TEARDOWN, **{option: "0.1"})
    assert run.results == {"test_innocent": "passed", "test_guilty": "error"}, run.text


def test_mocks_of_the_test_are_its_own(suite):
    """Neither the pool's thread nor the time that tasks are given calls what a test has put in the place of `sleep`."""
    source = """
    import time, unittest.mock

    @pytest.fixture
    def no_sleep(monkeypatch):
        sleep = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", unittest.mock.AsyncMock())
        return sleep

    async def test_background(engine, no_sleep):
        async def soon():
            async with engine.connect() as connection:
                await connection.execute(SELECT)
                await no_sleep(0.05)
        KEPT.append(asyncio.create_task(soon()))
        await no_sleep(0.01)
        asyncio.sleep.assert_not_awaited()

    async def test_thread(engine):
        with unittest.mock.patch("time.sleep") as sleep:
            async with engine.connect() as connection:
                await connection.execute(SELECT)
                time.sleep(3)
                await asyncio.sleep(0.3)
        sleep.assert_called_once_with(3)
    """
    run = suite(source)
    assert set(run.results.values()) == {"passed"}, run.text


XUNIT = """
    import threading

    class Client:
        def call(self, coroutine):
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(5)

        def __init__(self):
            self.loop, self.engine = asyncio.new_event_loop(), new_engine()
            self.thread = threading.Thread(target=self.loop.run_forever)
            self.thread.start()
            self.go = asyncio.Event()
            async def begin():
                self.worker = asyncio.create_task(self.work())
                await asyncio.sleep(0)
            self.call(begin())

        async def work(self):
            await self.go.wait()
            async with self.engine.connect() as connection:
                await connection.execute(SELECT)
                await asyncio.sleep(60)

        async def begin_to_work(self):
            self.go.set()
            await asyncio.sleep(0.02)

        def close(self):
            async def end():
                self.worker.cancel()
                await asyncio.gather(self.worker, return_exceptions=True)
            self.call(end())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()

    def setup_module(module):
        module.loop = asyncio.new_event_loop()
        module.session = AsyncSession(new_engine())

    def teardown_module(module):
        module.loop.run_until_complete(module.session.close())
        module.loop.close()

    @pytest.fixture(scope="module")
    def client():
        client = Client()
        yield client
        client.close()

    @pytest.fixture(scope="class")
    def session_of_class(request):
        request.cls.own = AsyncSession(new_engine())
        yield
        loop.run_until_complete(request.cls.own.close())

    def test_module():
        loop.run_until_complete(session.execute(SELECT))

    def test_thread(client):
        client.call(client.begin_to_work())

    def test_after():
        pass

    class TestClass:
        @classmethod
        def setup_class(cls):
            cls.session = AsyncSession(new_engine())

        @classmethod
        def teardown_class(cls):
            loop.run_until_complete(cls.session.close())

        def test_class(self):
            loop.run_until_complete(self.session.execute(SELECT))

        def test_fixture(self, session_of_class):
            loop.run_until_complete(self.own.execute(SELECT))

        def test_after(self):
            pass
"""


def test_what_setup_functions_keep(suite):
    """What `setup_class`, `setup_module` and `request.cls` keep, and a wide fixture's worker in another thread, is not the test's."""
    run = suite(XUNIT, poolguard_quiesce="0.05")
    assert set(run.results.values()) == {"passed"}, run.text
    assert len(run.results) == 5


def test_task_of_a_wide_fixture_that_a_test_begins(suite):
    """A task that a test begins and a wide fixture keeps and ends is the fixture's."""
    source = """
    class Service:
        task = None

        async def ensure(self, engine):
            if self.task is None:
                self.task = asyncio.create_task(slowly(engine, 60))
                await asyncio.sleep(0.01)

    @pytest.fixture(scope="module")
    async def service():
        service = Service()
        yield service
        service.task.cancel()
        await asyncio.gather(service.task, return_exceptions=True)

    async def test_service(engine, service):
        await service.ensure(engine)

    async def test_after(engine):
        await slowly(engine, 0)
    """
    options = {"asyncio_default_test_loop_scope": "module", "asyncio_default_fixture_loop_scope": "module"}
    run = suite(source, poolguard_quiesce="0.05", **options)
    assert set(run.results.values()) == {"passed"}, run.text


def test_session_that_a_wide_fixture_puts_anywhere(suite):
    """A session that a wide fixture makes, and puts where its value does not lead, is its own, whoever checks out; others' are not."""
    source = """
    import types
    APP = types.ModuleType("app")
    sys.modules["app"] = APP

    @pytest.fixture(scope="module", autouse=True)
    async def db():
        APP.session = AsyncSession(new_engine())
        APP.sessions = []
        APP.unclosed = AsyncSession(new_engine())
        yield
        await APP.session.close()

    async def test_lazily():
        await APP.session.execute(SELECT)

    async def test_nested():
        async with APP.session.begin_nested():
            await APP.session.execute(SELECT)

    async def test_guilty(engine):
        APP.sessions.append(AsyncSession(engine))
        await APP.sessions[0].execute(SELECT)

    async def test_unclosed():
        await APP.unclosed.execute(SELECT)

    async def test_last():
        pass
    """
    options = {"asyncio_default_test_loop_scope": "module", "asyncio_default_fixture_loop_scope": "module"}
    run = suite(source, poolguard_quiesce="0.05", **options)
    assert set(run.blamed) == {"test_guilty", "test_last"}, run.text
    assert "kept by" not in run.blamed["test_guilty"]
    told = "checked out in test_it.py::test_unclosed, kept by fixture 'db' (module scope), which ended here: this test is not to blame"
    assert told in run.blamed["test_last"]


THREADED = """
    import threading

    class Server:
        def __init__(self, engine):
            self.engine = engine
            self.loop = asyncio.new_event_loop()
            self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.serve(),))
            self.ready = threading.Event()

        async def serve(self):
            self.stopped = asyncio.Event()
            server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            periodic = asyncio.create_task(self.periodic())
            self.ready.set()
            await self.stopped.wait()
            periodic.cancel()
            server.close()

        async def periodic(self):
            while True:
                await asyncio.create_task(slowly(self.engine, 0.05))

        async def answer(self, reader, writer):
            if await reader.readline() == b"leave\\n":
                KEPT.append(await self.engine.connect())
            writer.write(b"done\\n")
            writer.close()

    SERVER = Server(new_engine())

    def start():
        SERVER.thread.start()
        SERVER.ready.wait()
        return SERVER.port

    def stop():
        SERVER.loop.call_soon_threadsafe(SERVER.stopped.set)
        SERVER.thread.join()

    @pytest.fixture(scope="module")
    def server():
        yield start()
        stop()

    async def ask(port, what):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(what)
        assert await reader.readline() == b"done\\n"
        writer.close()
        await asyncio.sleep(0.12)  # so that the server begins its own work anew

    async def test_one(server):
        await ask(server, b"work\\n")

    async def test_guilty(server):
        await ask(server, b"leave\\n")

    async def test_two(server):
        await ask(server, b"work\\n")
"""


def test_server_in_a_thread(suite):
    """What a server in another thread begins by itself is its fixture's; what a test asks of it is the test's."""
    run = suite(THREADED, poolguard_quiesce="0.001")
    assert set(run.blamed) == {"test_guilty"}, run.text
    assert set(run.results) == {"test_one", "test_guilty", "test_two"}


def test_wide_fixture_in_the_middle_of_a_test(suite):
    """A wide fixture that a test asks for while it runs has the tasks that its own setup begins, not the test's."""
    source = """
    import threading

    @pytest.fixture(scope="module")
    def server():
        loop, engine = asyncio.new_event_loop(), new_engine()

        async def work():
            while True:
                async with engine.connect():
                    await asyncio.sleep(0.02)

        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        task = asyncio.run_coroutine_threadsafe(work(), loop)
        yield
        task.cancel()
        loop.call_soon_threadsafe(loop.call_later, 0.1, loop.stop)
        thread.join()
        loop.close()

    async def test_guilty(engine, request):
        async def work():
            await go.wait()
            async with engine.connect():
                await asyncio.sleep(60)

        go = asyncio.Event()
        KEPT.append(asyncio.create_task(work(), name="worker"))
        await asyncio.sleep(0)
        request.getfixturevalue("server")
        go.set()
        await asyncio.sleep(0.05)

    async def test_innocent(server):
        await asyncio.sleep(0.05)
    """
    run = suite(source, poolguard_quiesce="0.05")
    assert set(run.blamed) == {"test_guilty"}, run.text
    assert "by task 'worker'" in run.blamed["test_guilty"]
    assert "kept by" not in run.blamed["test_guilty"]
    assert run.results["test_innocent"] == "passed"
