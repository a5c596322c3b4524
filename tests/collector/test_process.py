"""What needs a process of its own, or a server: forks, several workers, a missing library, a scrape from outside."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess
import sys
import textwrap
import urllib.request

import pytest
from doubles.pools import engine
from doubles.scrapes import Scrape
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest, make_asgi_app, start_http_server
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from sqla_poolguard import Guard
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._prometheus import account
from sqla_poolguard._prometheus.account import Account

TESTS = pathlib.Path(__file__).parents[1]

PRELUDE = """
import asyncio, os, sys
from doubles.driver import FakeDriver
from sqlalchemy.ext.asyncio import create_async_engine
from sqla_poolguard import GuardedPool, Guard

def engine(name="main"):
    return create_async_engine(
        "postgresql+asyncpg://h/db", poolclass=GuardedPool, _initialize=False, creator=FakeDriver().open, guard=Guard(name=name)
    )

async def checkouts(db, count):
    for _ in range(count):
        async with db.connect():
            pass

def leases(registry):
    return int(registry.get_sample_value("db_client_connection_use_time_seconds_count", {"db_client_connection_pool_name": "main"}))
"""


def run(program, **environment):
    """Run a program on the doubles; give what it prints."""
    command = [sys.executable, "-P", "-W", "ignore::DeprecationWarning", "-c", PRELUDE + textwrap.dedent(program)]
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_forked_worker_counts_its_own():
    """A child that is forked after the engine was made begins at 0; the parent's figures stay the parent's (gunicorn --preload)."""
    lines = run("""
    from prometheus_client import REGISTRY
    from sqla_poolguard.prometheus import register
    register()
    db = engine()
    asyncio.run(checkouts(db, 3))
    print("parent", leases(REGISTRY), flush=True)
    asyncio.run(checkouts(db, 1))
    if child := os.fork():
        os.waitpid(child, 0)
        print("parent", leases(REGISTRY), flush=True)
    else:
        print("child", leases(REGISTRY), flush=True)
        asyncio.run(checkouts(db, 2))
        print("child", leases(REGISTRY), flush=True)
        os._exit(0)
    """)
    assert lines == ["parent 3", "child 0", "child 2", "parent 4"]


@pytest.mark.parametrize("variable", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_multiprocess_mode_is_refused(tmp_path, variable):
    """Where one worker answers for all, `register()` says what would go wrong, and nothing is registered."""
    lines = run(
        """
    from prometheus_client import REGISTRY, generate_latest
    from sqla_poolguard.prometheus import register
    try:
        register()
    except RuntimeError as error:
        print(error)
    print(b"db_client" in generate_latest(REGISTRY))
    """,
        **{variable: str(tmp_path)},
    )
    assert lines[0].startswith(f"PROMETHEUS_MULTIPROC_DIR={str(tmp_path)!r}: in this mode one process answers for all")
    assert "each_process=True" in lines[0]
    assert lines[1] == "False"


def test_each_process_may_answer_for_itself(tmp_path):
    """In multiprocess mode a worker that is scraped by itself tells of its own pools, and of no other's."""
    lines = run(
        """
    from prometheus_client import CollectorRegistry
    from sqla_poolguard.prometheus import register
    db = engine()
    registry = CollectorRegistry()
    register(registry, each_process=True)
    children = []
    for number in (1, 2):
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            asyncio.run(checkouts(db, number))
            print("worker", leases(registry), flush=True)
            os._exit(0)
    print("master", leases(registry), flush=True)
    """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    assert lines == ["worker 1", "worker 2", "master 0"]


def test_what_multiprocess_mode_collects(tmp_path):
    """The reason: prometheus_client's own collector for several processes finds nothing of a custom collector."""
    lines = run(
        """
    from prometheus_client import CollectorRegistry, Counter, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector
    from sqla_poolguard.prometheus import PoolCollector
    Counter("requests", "of the application").inc()
    asyncio.run(checkouts(engine(), 1))
    PoolCollector(each_process=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    print(b"requests_total 1.0" in generate_latest(registry), b"db_client" in generate_latest(registry))
    """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    assert lines == ["True False"]


def test_missing_library_is_named():
    """Without prometheus_client the module can be imported, and its use tells what to install."""
    lines = run("""
    sys.modules["prometheus_client"] = None
    sys.modules["prometheus_client.core"] = None
    import importlib.abc
    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "prometheus_client":
                raise ModuleNotFoundError(f"No module named {name!r}", name="prometheus_client")
    del sys.modules["prometheus_client"], sys.modules["prometheus_client.core"]
    sys.meta_path.insert(0, Missing())
    from sqla_poolguard.prometheus import dashboard, register, rules
    assert "alert" in rules() and "panels" in dashboard()
    try:
        register()
    except ModuleNotFoundError as error:
        print(error)
    """)
    assert lines == ['prometheus_client is not installed: pip install "sqla-poolguard[prometheus]" installs it']


async def test_a_server_in_a_thread():
    """`start_http_server` answers while the loop goes on checking out, and tells of every lease in the end."""
    db = engine(guard=Guard(name="threaded"))
    scrape = Scrape(db)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=scrape.registry)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def fetch():
        with direct.open(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
            return answer.read().decode()

    try:
        fetching = [asyncio.create_task(asyncio.to_thread(fetch)) for _ in range(3)]
        while not all(task.done() for task in fetching):
            async with db.connect():
                await asyncio.sleep(0)
        text = await asyncio.to_thread(fetch)
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
    served = db.sync_engine.pool._ledger.granted
    line = f'db_client_connection_use_time_seconds_count{{db_client_connection_pool_name="threaded"}} {served}.0'
    assert line in text.splitlines()


@pytest.mark.parametrize("path", ["/mounted/", "/in-a-thread"])
def test_starlette(path):
    """As an ASGI application of prometheus_client's, and as a route that scrapes in a thread."""
    db = engine(guard=Guard(name=path))
    scrape = Scrape(db)

    async def metrics(request):
        text = await asyncio.to_thread(generate_latest, scrape.registry)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    app = Starlette(routes=[Mount("/mounted", make_asgi_app(scrape.registry)), Route("/in-a-thread", metrics)])
    answer = TestClient(app).get(path)
    assert answer.status_code == 200
    assert f'db_client_connection_max{{db_client_connection_pool_name="{path}"}} 15.0' in answer.text


def filled(count):
    """Give an account of books in which so many samples wait."""
    ledger = Ledger()
    found = Account("filled", ledger)
    ledger.samples.extend([(0.0, 0.25)] * count)
    return found, ledger


def test_a_scrape_gives_way(monkeypatch):
    """Samples are counted a few hundred at a time; in between an event loop in another thread may run."""
    naps = []
    monkeypatch.setattr(account.time, "sleep", naps.append)
    one, _ledger = filled(16_384)
    waits, uses = one.times()
    assert waits.count == uses.count == 16_384
    assert uses.total == 4096.0
    assert naps == [0] * (16_384 // 512)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with Python 3.12")
def test_a_scrape_is_cheap():
    """To count a sample takes a few dozen bytecodes, and no call of our own: 16,384 of them are counted in milliseconds."""
    one, _ledger = filled(16_384)
    counted = {sys.monitoring.events.INSTRUCTION: 0, sys.monitoring.events.PY_START: 0}

    def note(event):
        def noted(*_):
            counted[event] += 1

        return noted

    tool = sys.monitoring.PROFILER_ID
    sys.monitoring.use_tool_id(tool, "test_process")
    try:
        for event in counted:
            sys.monitoring.register_callback(tool, event, note(event))
        sys.monitoring.set_events(tool, sum(counted))
        one.times()
        sys.monitoring.set_events(tool, 0)
    finally:
        sys.monitoring.free_tool_id(tool)
    instructions, calls = counted.values()
    assert instructions / 16_384 < 24
    assert calls / 16_384 < 0.05
