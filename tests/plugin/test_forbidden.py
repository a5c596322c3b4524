"""Calls that must not be made while a connection is held: they raise where they are made, mocked or not."""

from __future__ import annotations

import sys
import types

import httpx  # noqa: F401 - so that no run inside imports it anew
import pytest

MODULES = """
    import types
    import unittest.mock
    import httpx, time

    calls = types.ModuleType("app_calls")

    class Client:
        async def complete(self, prompt):
            return prompt.upper()

        def ask(self, prompt):
            return prompt.upper()

        complete.__module__ = ask.__module__ = "app_calls"

    async def plain():
        return 1

    calls.Client, calls.plain, calls.client = Client, plain, Client()
    for own in (Client, plain):
        own.__module__ = "app_calls"
    sys.modules["app_calls"] = calls

    def answer(request):
        return httpx.Response(200, text="mocked")

    @pytest.fixture
    async def client():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://pay") as client:
            yield client

    @pytest.fixture
    def mocked(monkeypatch):
        mock = unittest.mock.AsyncMock(return_value="mocked")
        monkeypatch.setattr(httpx.AsyncClient, "post", mock)
        monkeypatch.setattr(Client, "complete", mock)
        return mock
"""

GUILTY = {
    "httpx": "await client.get('/')  # HERE",
    "httpx_send": "await client.send(client.build_request('GET', '/'))  # HERE",
    "httpx_stream": "async with client.stream('GET', '/'): pass  # HERE",
    "mock": "assert await client.post('/') == 'mocked'  # HERE",
    "mocked_client": "await Client().complete('x')  # HERE",
    "own_sync": "Client().ask('x')  # HERE",
    "own_function": "await calls.plain()  # HERE",
    "sleep": "await asyncio.sleep(0.001)  # HERE",
    "time_sleep": "time.sleep(0.001)  # HERE",
    "gathered": "await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(2)))",
    "child": "async def child(): await client.get('/')  # HERE\nawait asyncio.create_task(child())",
    "grandchild": "async def child(): await client.get('/')  # HERE\nasync def parent(): await asyncio.gather(child())\nawait asyncio.wait_for(parent(), 1)",
    "group": "async def child(): await client.get('/')  # HERE\nasync with asyncio.TaskGroup() as group: group.create_task(child())",
    "patched": "with unittest.mock.patch('httpx.AsyncClient.get'): await client.get('/')  # HERE",
    "patched_client": "with unittest.mock.patch.object(Client, 'complete'): await Client().complete('x')  # HERE",
    "autospec": "with unittest.mock.patch.object(httpx.AsyncClient, 'get', autospec=True): await client.get('/')  # HERE",
    "started": "patch = unittest.mock.patch('httpx.AsyncClient.get')\npatch.start()\ntry: await client.get('/')  # HERE\nfinally: patch.stop()",
    "monkeypatched": "monkeypatch.setattr('httpx.AsyncClient.get', unittest.mock.AsyncMock())\nawait client.get('/')  # HERE",
    "patched_function": "with unittest.mock.patch('app_calls.plain'): await calls.plain()  # HERE",
    "class_is_patched": "with unittest.mock.patch('httpx.AsyncClient'):\n    async with httpx.AsyncClient() as other: await other.get('/')  # HERE",
    "class_has_spec": "with unittest.mock.patch('httpx.Client', autospec=True): httpx.Client().get('/')  # HERE",
    "instance_is_patched": "with unittest.mock.patch.object(calls, 'client'): calls.client.ask('x')  # HERE",
    "instance": "calls.client.ask('x')  # HERE",
    "swallowed": "with contextlib.suppress(Exception): await client.get('/')  # HERE",
    "sync_httpx": "httpx.Client(transport=httpx.MockTransport(answer)).get('http://pay/')  # HERE",
}

INNOCENT = {
    "nothing": "pass",
    "yields": "await asyncio.sleep(0)",
    "own_transport": "async with httpx.AsyncClient(transport=Own(application), base_url='http://own') as own: await own.get('/')",
    "wrapped_transport": "async with httpx.AsyncClient(transport=Wrapper(application), base_url='http://own') as own: await own.get('/')",
    "own_mount": "async with httpx.AsyncClient(mounts={'all://': httpx.ASGITransport(application)}, base_url='http://own') as own: await own.get('/')",
    "declared": "with allow_hold('a saga'): await client.get('/')",
    "another_task": "tasks.append(asyncio.create_task(client.get('/')))\nawait connection.execute(SELECT)",
    "own_application": "async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url='http://own') as own: await own.get('/')",
    "another_thread": "await asyncio.to_thread(time.sleep, 0.001)",
}


def a_test(name, body):
    """Write a test that does something while it has a connection."""
    lines = "\n            ".join(body.splitlines())
    return f"""
    async def test_{name}(engine, client, mocked, monkeypatch):
        await client.get("/")
        await asyncio.sleep(0.001)
        tasks = []
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            {lines}
        await asyncio.gather(*tasks)
        await client.get("/")
"""


CALLS = "\n    usual\n    app_calls:client.ask\n    app_calls:Client.complete\n    app_calls:Client.ask\n    app_calls:plain"

APPLICATION = """
    class Own(httpx.ASGITransport):
        pass

    class Wrapper(httpx.AsyncBaseTransport):
        def __init__(self, application):
            self.inner = httpx.ASGITransport(application)

        async def handle_async_request(self, request):
            return await self.inner.handle_async_request(request)

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""


@pytest.fixture(autouse=True)
def _app_calls(monkeypatch):
    """Let there be the module that the suites define, before their options are read."""
    monkeypatch.setitem(sys.modules, "app_calls", types.ModuleType("app_calls"))


def test_every_forbidden_call_is_seen(suite):
    """The call raises at its line, through mocks and in child tasks; one whose error is swallowed fails the test all the same."""
    source = MODULES + "".join(a_test(name, body) for name, body in GUILTY.items())
    source += """
    @unittest.mock.patch("httpx.AsyncClient.get")
    async def test_decorated(get, engine, client):
        async with engine.connect():
            await client.get("/")  # HERE
"""
    run = suite(source, poolguard_forbidden_calls=CALLS)
    assert "# HERE" in run.told["test_decorated"], run.text
    assert {name for name, result in run.results.items() if result != "failed"} == set(), run.text
    for name, body in GUILTY.items():
        told = run.told[f"test_{name}"]
        assert "while a connection is held: pool " in told or name == "swallowed", told
        assert "# HERE" not in body or "# HERE" in told or name == "swallowed", told
    assert set(run.blamed) == {"test_swallowed"}
    assert "connection held in a forbidden call" in run.blamed["test_swallowed"]
    assert "httpx:AsyncClient.get at test_it.py:" in run.blamed["test_swallowed"]


def test_what_is_no_forbidden_call(suite):
    """Without a connection, in others' tasks, within the process, or declared, calls are right; so are those of the libraries."""
    source = MODULES + APPLICATION + "".join(a_test(name, body) for name, body in INNOCENT.items())
    source += """
    @pytest.mark.poolguard(allow_hold="a saga")
    async def test_allowed(engine, client):
        async with engine.connect():
            await client.get("/")

    @pytest.fixture
    async def connection(engine):
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            yield connection

    async def test_fixture(connection, client):
        await client.get("/")

    async def test_slow_database(client):
        engine = FakeDriver(execute="slow", delay=0.001).engine()
        async with engine.connect() as connection:
            await connection.execute(SELECT)
"""
    run = suite(source, poolguard_forbidden_calls=CALLS)
    assert set(run.results.values()) == {"passed"}, run.text


def test_everything_is_as_before(suite):
    """Afterwards every function is its own again, also where a test has mocked it itself; a mock can be asked what it was called with."""
    run = suite(
        MODULES
        + """
    SEND = vars(httpx.AsyncClient)["send"]
    SLEEP, COMPLETE = time.sleep, vars(Client)["complete"]

    async def test_mock(engine, client, mocked):
        assert await client.post("/", json={}) == "mocked"
        httpx.AsyncClient.post.assert_awaited_once_with("/", json={})
        httpx.AsyncClient.post.return_value = "other"
        assert await client.post("/") == "other"

    async def test_patches(engine, client):
        with unittest.mock.patch("httpx.AsyncClient.get", autospec=True) as get:
            await client.get("/")
            get.assert_awaited_once_with(client, "/")
            with unittest.mock.patch.object(httpx.AsyncClient, "get", return_value="inner") as inner:
                assert await client.get("/") == "inner"
            assert isinstance(inner, unittest.mock.AsyncMock)
            get.assert_awaited_once()
        assert (await client.get("/")).text == "mocked"

    @unittest.mock.patch("httpx.AsyncClient.get")
    async def test_decorated(get, engine, client):
        await client.get("/")
        get.assert_awaited_once_with("/")

    async def test_several_at_once(engine):
        with unittest.mock.patch.multiple("app_calls.Client", ask=unittest.mock.DEFAULT, complete=unittest.mock.DEFAULT):
            pass
        with unittest.mock.patch("time.sleep"), unittest.mock.patch("time.sleep"):
            pass

    async def test_class_that_is_spied_on(engine):
        with unittest.mock.patch("httpx.AsyncClient", wraps=httpx.AsyncClient) as spy:
            assert isinstance(httpx.AsyncClient(timeout=3), spy._mock_wraps)
        with unittest.mock.patch("httpx.AsyncClient") as fake:
            pass
        assert not fake._mock_children

    async def test_stand_ins(engine, recorder):
        time.sleep(1)
        assert recorder == [1]

    @pytest.fixture
    def recorder(monkeypatch):
        import functools
        calls = []
        class Recorder:
            def __call__(self, seconds):
                calls.append(seconds)
        monkeypatch.setattr(time, "sleep", Recorder())
        monkeypatch.setattr(asyncio, "sleep", functools.partial(asyncio.sleep, 0))
        return calls

    async def test_builtin_does_not_bind(engine):
        class Retry:
            sleep = time.sleep
        Retry().sleep(0)

    async def test_mock_is_what_it_was(engine, mocked):
        with unittest.mock.patch("app_calls.plain") as plain:
            assert calls.plain is plain
        assert Client.complete is mocked

    async def test_function_is_like_itself(engine):
        import copy, inspect
        assert inspect.isfunction(Client.ask) and inspect.iscoroutinefunction(calls.plain) == (sys.version_info >= (3, 12))
        assert asyncio.iscoroutinefunction(calls.plain)
        assert str(inspect.signature(Client().ask)) == "(prompt)"
        one = Client()
        assert one.ask == one.ask and copy.copy(calls.plain) is calls.plain
        with pytest.raises(TypeError):
            unittest.mock.create_autospec(Client, instance=True).ask()
        assert calls.client.ask("x") == "X"

    async def test_copies(engine):
        import concurrent.futures, copy, dataclasses, multiprocessing, pickle

        @dataclasses.dataclass
        class Options:
            sleep: object = time.sleep

        for function in (time.sleep, calls.plain, Client.ask):
            assert copy.copy(function) is copy.deepcopy(function) is pickle.loads(pickle.dumps(function)) is function
        assert dataclasses.asdict(Options())["sleep"] is copy.deepcopy(Options()).sleep is time.sleep
        for one in (copy.deepcopy(calls.client), pickle.loads(pickle.dumps(calls.client))):
            assert one.ask.__self__ is one and one.ask("x") == "X"
        assert calls.client.ask.__self__ is calls.client
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            assert executor.submit(time.sleep, 0).result(30) is None
        kept_copies.append((time.sleep, pickle.dumps(time.sleep)))

    kept_copies = []

    @pytest.fixture
    def copies():
        import copy, pickle
        for function, pickled in kept_copies:
            assert pickle.loads(pickled) is pickle.loads(pickle.dumps(function)) is SLEEP
            assert copy.deepcopy(function) is function

    def test_what_was_copied(copies):
        assert kept_copies

    async def test_class_is_patched(engine):
        for name in ("httpx.AsyncClient", "httpx.Client", "app_calls.Client", "app_calls.client"):
            with unittest.mock.patch(name):
                pass
            with unittest.mock.patch(name, autospec=True):
                pass
        with unittest.mock.patch.dict(sys.modules, {"httpx": unittest.mock.MagicMock()}), unittest.mock.patch("app_calls.plain"):
            pass
        kept.append((time.sleep, SLEEP))

    kept = []

    async def test_mocks_itself(engine, monkeypatch):
        monkeypatch.setattr(httpx.AsyncClient, "send", None)
        monkeypatch.setattr(time, "sleep", None)
        del Client.complete
        Client.complete = COMPLETE

    @pytest.fixture
    def restored():
        assert vars(httpx.AsyncClient)["send"] is SEND
        assert (time.sleep, vars(Client)["complete"]) == (SLEEP, COMPLETE)
        assert "ask" not in vars(calls.client)
        assert isinstance(httpx.AsyncClient, type) and isinstance(httpx.Client, type)

    def test_after(restored):
        assert vars(httpx.AsyncClient)["send"] is not SEND
        assert httpx.AsyncClient.send.__name__ == "send"
    """,
        poolguard_forbidden_calls=CALLS,
    )
    assert set(run.results.values()) == {"passed"}, run.text


def test_warn_does_not_raise(suite):
    """With `poolguard = warn` the call is made, and a warning tells."""
    run = suite(
        MODULES + a_test("it", "assert (await client.get('/')).text == 'mocked'"),
        poolguard="warn",
        poolguard_forbidden_calls="usual",
    )
    assert run.results == {"test_it": "passed"}, run.text
    ((name, text),) = run.warnings
    assert (name, text.partition(":")[0], "times" in text) == ("test_it", "connection held in a forbidden call", False)


def test_a_call_is_told_once(suite):
    """With `poolguard = warn` nothing stops a call: what the library does for it, behind a mock or not, is none of its own."""
    lines = {
        "spied": "with unittest.mock.patch('httpx.get', wraps=httpx.get), contextlib.suppress(Exception): httpx.get('http://127.0.0.1:9')",
        "spied_sleep": "with unittest.mock.patch('asyncio.sleep', wraps=asyncio.sleep): await asyncio.sleep(0.001)",
        "spied_time": "with unittest.mock.patch('time.sleep', wraps=time.sleep): time.sleep(0.001)",
        "stream": "async with client.stream('GET', '/'): pass",
        "requests": "with contextlib.suppress(requests.RequestException): requests.Session().get('http://127.0.0.1:9')",
        "anyio": "await anyio.sleep(0.001)",
        "replaced": "monkeypatch.setattr(httpx, 'get', lambda url: None)\nhttpx.get('http://pay/')",
    }
    source = "\n    import requests\n" + "".join(a_test(name, body) for name, body in lines.items())
    run = suite(MODULES + source, poolguard="warn", poolguard_forbidden_calls="usual")
    assert set(run.results.values()) == {"passed"}, run.text
    told = {name: text.count("which awaits") for name, text in run.warnings}
    assert told == {f"test_{name}": 1 for name in lines}, run.warnings
    assert "times" not in "".join(text for _, text in run.warnings)


LIBRARIES = {
    "aiohttp": "async with aiohttp.ClientSession() as session:\n    await session.get(NOBODY)  # HERE",
    "requests": "requests.get(NOBODY)  # HERE",
    "openai_chat": "await openai.AsyncOpenAI(**KEY).chat.completions.create(model='x', messages=[])  # HERE",
    "openai_responses": "await openai.AsyncOpenAI(**KEY).responses.create(model='x', input='x')  # HERE",
    "openai_embeddings": "await openai.AsyncOpenAI(**KEY).embeddings.create(model='x', input='x')  # HERE",
    "openai_sync": "openai.OpenAI(**KEY).chat.completions.create(model='x', messages=[])  # HERE",
    "pytest_mock": "mocker.patch('requests.get', wraps=requests.get)\nrequests.get(NOBODY)  # HERE",
}


MOCKED = {
    **{
        f"httpx_{verb}": f"with patch('httpx.{verb}'): httpx.{verb}('http://x/')  # HERE" for verb in ("get", "request", "stream")
    },
    **{
        f"async_{verb}": f"with patch('httpx.AsyncClient.{verb}'): await client.{verb}('/')  # HERE"
        for verb in ("head", "options", "put")
    },
    "gathered": "await asyncio.gather(client.head('/'))  # HERE",
    "httpx_client": "with patch('httpx.Client.head'): httpx.Client().head('http://x/')  # HERE",
    "httpx_replaced": "monkeypatch.setattr(httpx, 'post', lambda url: None)\nhttpx.post('http://x/')  # HERE",
    "requests_get": "with patch('requests.get'): requests.get('http://x/')  # HERE",
    "requests_post": "with patch('requests.Session.post'): requests.Session().post('http://x/')  # HERE",
    "requests_session": "with patch('requests.Session'): requests.Session().delete('http://x/')  # HERE",
    "aiohttp_get": "async with aiohttp.ClientSession() as session:\n    with patch('aiohttp.ClientSession.get'):\n        async with session.get('http://x/'): pass  # HERE",
    "aiohttp_class": "with patch('aiohttp.ClientSession'):\n    async with aiohttp.ClientSession() as session: await session.put('http://x/')  # HERE",
    "aiohttp_request": "with patch('aiohttp.request'):\n    async with aiohttp.request('GET', 'http://x/'): pass  # HERE",
    "openai_responses": "with patch('openai.resources.responses.AsyncResponses.create'): await openai.AsyncOpenAI(api_key='x').responses.create()  # HERE",
    "openai_sync": "with patch('openai.resources.embeddings.Embeddings.create'): openai.OpenAI(api_key='x').embeddings.create()  # HERE",
    "anyio": "await anyio.sleep(0.001)  # HERE",
    "anyio_mocked": "with patch('anyio.sleep'): await anyio.sleep(1)  # HERE",
}


def test_mocks_of_what_is_usual(suite):
    """A mock of any public function of the libraries is seen, and nothing stands before one that calls another of them at once."""
    source = """
    import aiohttp, openai, requests
    from unittest.mock import patch
    """
    source += "".join(a_test(name, body) for name, body in MOCKED.items())
    source += """
    async def test_as_before(engine):
        assert not hasattr(httpx.get, "__wrapped__") and not hasattr(requests.Session.get, "__wrapped__")
        await anyio.sleep(0)
        async with engine.connect():
            await anyio.sleep(0)
    """
    run = suite(MODULES + source, poolguard_forbidden_calls="usual")
    assert {name for name, result in run.results.items() if result != "failed"} == {"test_as_before"}, run.text
    for name in MOCKED:
        told = run.told[f"test_{name}"]
        assert "while a connection is held: pool " in told, told
        assert "# HERE" in told, told


def test_libraries_that_are_known(suite, pytester):
    """What "usual" stands for is really called: nothing gets as far as the network, and the application's line is told."""
    source = """
    import aiohttp, openai, requests

    NOBODY = "http://127.0.0.1:9"
    KEY = {"api_key": "x", "base_url": NOBODY, "max_retries": 0}
    """
    source += "".join(a_test(name, body).replace("monkeypatch):", "mocker):") for name, body in LIBRARIES.items())
    run = suite(MODULES + source, poolguard_forbidden_calls="usual")
    assert {name for name, result in run.results.items() if result != "failed"} == set(), run.text
    written = (pytester.path / "test_it.py").read_text().splitlines()
    guilty = [number for number, line in enumerate(written, 1) if "# HERE" in line]
    for name, line in zip(LIBRARIES, guilty, strict=True):
        assert f" called at test_it.py:{line} while a connection is held" in run.told[f"test_{name}"], run.told[f"test_{name}"]
