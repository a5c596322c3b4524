"""The debug page: who may see it, what it shows, and that nothing of the application becomes markup."""

from __future__ import annotations

import asyncio
import html.parser
import json

import pytest
from doubles.web import ask, messages, small
from fastapi import FastAPI
from litestar import Litestar, asgi
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import (
    Declaration,
    Finding,
    FindingKind,
    Holder,
    HolderState,
    PoolSnapshot,
    Site,
    Waste,
    _monitored,
)
from sqla_poolguard._asgi import debug
from sqla_poolguard._asgi.page import draw
from sqla_poolguard._monitor.facts import Told
from sqla_poolguard._plain import plain
from sqla_poolguard.asgi import debug_page
from sqla_poolguard.monitor import Blocker, MonitorRow, PoolMonitor, Session

EVIL = "<script>alert('x')</script>&\"'"


def full(text="orders"):
    """Give a snapshot with something in every part, and a text of the application's wherever there is one."""
    here, there = Site(f"/app/{text}.py", 48, text), Site(f"/app/{text}.py", 51, text)

    def holder(state, **parts):
        return Holder(text, here, text, 12.4, 0.3, state=state, current=there, in_database=0.5, **parts)

    return PoolSnapshot(
        text,
        5,
        3,
        1,
        5,
        1,
        2,
        (
            holder(HolderState.AWAITING, awaiting=text, overdue=True, details=(text,), stack=(there,)),
            holder(HolderState.AWAITING, awaiting=text, declared=text),
            holder(HolderState.IN_DATABASE),
            holder(HolderState.ORPHANED),
            Holder(text, None, None, 0.1, 0.0),
        ),
        (Holder(text, here, text, 0.0, 2.5), Holder(text, None, None, 0.0, 1.5)),
        requested=100,
        granted=90,
        opened=7,
        rejected={"timeout": 8, "queue_full": 0},
        ended={"checked_in": 85, "leaked": 0},
        findings=(
            Finding(text, FindingKind.NESTED, here, there, text, 3.0, 1.0, 0.5, 0.5, text, text, details=(text,), count=17),
        ),
        waste=(Waste(there, text, 33.3),),
        declared=(Declaration(text, 4, 2),),
    )


class Reader(html.parser.HTMLParser):
    """Reads a page: its tags, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        """Note a tag."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Close the one that is open."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Note what a person reads."""
        if self.open and self.open[-1] != "style":
            self.words.append(data)


async def test_from_this_machine(orders):
    """By default it is shown to this machine, at whatever path it is mounted, and to nobody else, who gets the 404 of any path."""
    app = FastAPI()
    app.mount("/poolguard", debug_page(orders))
    assert (await ask(app, url="/poolguard/")).status_code == 200
    other = Litestar([asgi("/poolguard", is_mount=True, copy_scope=True)(debug_page(orders))], logging_config=None)
    assert "orders" in (await ask(other, url="/poolguard")).text
    stranger = await ask(app, url="/poolguard/", client=("10.0.0.5", 1))
    assert (stranger.status_code, stranger.text) == (404, "Not Found")
    assert "orders" not in str(stranger.headers)


@pytest.mark.parametrize(
    ("client", "host", "seen"),
    [
        (("127.0.0.1", 1), "localhost", True),
        (("127.8.9.1", 1), "127.0.0.1:8000", True),
        (("::1", 1), "[::1]:8000", True),
        (("::ffff:127.0.0.1", 1), "LOCALHOST:8000", True),
        (("10.0.0.5", 1), "localhost", False),
        (("::ffff:10.0.0.5", 1), "localhost", False),
        (("testclient", 1), "localhost", False),
        (("", 0), "localhost", False),
        (None, "localhost", False),
        (("127.0.0.1", 1), "evil.example", False),
        (("127.0.0.1", 1), "localhost.evil.example", False),
        (("127.0.0.1", 1), "", False),
        (("127.0.0.1", 1), None, False),
    ],
)
async def test_what_loopback_means(orders, client, host, seen):
    """The peer is a loopback address, and the browser thinks so too; where the peer is not known, it is not."""
    headers = [] if host is None else [(b"host", host.encode())]
    start, _ = await messages(debug_page(orders), client=client, headers=headers)
    assert start["status"] == (200 if seen else 404)


async def test_two_hosts_are_none(orders):
    """A request that names two hosts, one of which is this machine, is not believed."""
    headers = [(b"host", b"localhost"), (b"host", b"evil.example")]
    start, _ = await messages(debug_page(orders), client=("127.0.0.1", 1), headers=headers)
    assert start["status"] == 404


@pytest.mark.parametrize("name", ["X-Forwarded-For", "forwarded", "X-Forwarded-Host", "x-real-ip", "Via"])
async def test_a_proxy_on_this_machine_is_not_this_machine(orders, name):
    """What comes through a proxy comes from anywhere, whatever the header says."""
    headers = [(b"host", b"localhost"), (name.encode(), b"127.0.0.1")]
    start, _ = await messages(debug_page(orders), client=("127.0.0.1", 1), headers=headers)
    assert start["status"] == 404


async def test_a_guard_of_the_applications(orders):
    """A guard decides alone, and may be a coroutine function; only True opens."""
    seen = []

    def secret(scope):
        seen.append(scope["path"])
        return (b"x-key", b"42") in scope["headers"]

    async def slowly(scope):
        await asyncio.sleep(0)
        return secret(scope)

    for guard in (secret, slowly):
        page = debug_page(orders, allow=guard)
        assert (await ask(page, headers={"x-key": "42"}, client=("10.0.0.5", 1))).status_code == 200
        assert (await ask(page)).status_code == 404
    assert len(seen) == 4
    for answer in (None, 1, "yes"):
        assert (await ask(debug_page(orders, allow=lambda _, answer=answer: answer))).status_code == 404


async def test_a_guard_that_fails(orders):
    """A guard that raises opens nothing."""

    def guard(scope):
        raise LookupError

    with pytest.raises(LookupError):
        await ask(debug_page(orders, allow=guard))


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
async def test_it_only_shows(orders, method):
    """Other methods find nothing."""
    assert (await ask(debug_page(orders), method)).status_code == 404


async def test_head_and_websocket(orders):
    """HEAD has no body; a WebSocket is closed."""
    app = debug_page(orders, allow=lambda _: True)
    start, body = await messages(app, method="HEAD")
    assert (start["status"], body["body"]) == (200, b"")
    assert [each["type"] for each in await messages(app, "websocket")] == ["websocket.close"]


async def test_headers(orders):
    """It is never stored, runs no script, loads nothing, and stands in no frame."""
    headers = (await ask(debug_page(orders))).headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


async def test_a_real_pool(orders):
    """Who holds and who waits is there, with the lines."""
    other = small(name="other")
    async with orders.connect():
        waiting = asyncio.create_task(orders.connect().__aenter__(), name="the one that waits")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        text = Reader((await ask(debug_page(orders, other))).text).text
        await asyncio.gather(waiting, return_exceptions=True)
    assert "asgi/test_debug_page.py" in text
    assert "1 held" in text
    assert "1 waiting" in text
    assert "the one that waits" in text
    assert "other" in text
    assert "Nobody holds a connection." in text
    await other.dispose()


def test_everything_is_shown():
    """Counts, holders with what they do and where, waiters, findings, waste and declarations."""
    text = Reader(draw([full()], "12:00", None)).text
    for part in (
        "orders 1 in the database 2 otherwise in use 2 held for nothing 1 opening 1 idle of 5 + 3",
        "asked for 100 granted 90 opened 7 refused, timeout: 8 ended, checked in: 85 5 held",
        "12.4 s awaits orders at /app/orders.py:51 in orders orders 0.5 s of it in the database /app/orders.py:48 in orders",
        "/app/orders.py:48 in orders from /app/orders.py:51 in orders orders",
        "declared: orders",
        "12.4 s in the database at /app/orders.py:51",
        "12.4 s its task has finished at",
        "0.1 s not known not known not known",
        "2 waiting waits asked at task 2.5 s /app/orders.py:48 in orders orders 1.5 s not known not known",
        "17 nested awaits orders held for 3.0 s orders trace orders /app/orders.py:51 in orders /app/orders.py:48 in orders",
        "33.3 s orders /app/orders.py:51 in orders",
        "4 2 orders",
    ):
        assert part in text
    assert "queue full" not in text
    assert "leaked" not in text


def told(text="orders"):
    """Give what a monitor knew, with a text of the application's wherever there is one."""
    holder = Holder(text, Site(f"/app/{text}.py", 48, text), text, 12.4, 0.3)
    idle = Session(7, "idle in transaction", 4.0, 5.0, None, 3, (), text, ours=True)
    waits = Session(8, "active", 3.0, 3.1, "Lock: tuple", 1, (7, 9), text, ours=True)
    blockers = (Blocker(7, holder, text), Blocker(9, None, text))
    hidden = Session(10, None, None, None, None, 0, (), None, ours=True)
    rows = (
        MonitorRow(holder, idle, (), 1),
        MonitorRow(holder, waits, blockers),
        MonitorRow(holder, hidden),
        MonitorRow(holder, None),
    )
    return Told(1.25, None, rows)


def test_what_the_server_said_is_shown():
    """The session of each holder: what it does, since when, what it waits for and for whom; and how old that is."""
    page = draw([full()], "", None, [told()])
    text = Reader(page).text
    for part in (
        "On the server, 1.2 s ago process state since locks blocked by held at",
        "7 idle in transaction transaction began 5.0 s before 4.0 s 3 1 wait for it /app/orders.py:48 in orders",
        "8 active waits for Lock: tuple transaction began 3.1 s before 3.0 s 1 /app/orders.py:48 in orders (pid 7) pid 9 of 'orders' /app",
        "10 not shown to this role not known 0 /app/orders.py:48 in orders",
    ):
        assert part in text
    assert '<td class="bad">idle in transaction' in page
    assert "Nobody held a connection." in Reader(draw([full()], "", None, [Told(0.1, None, ())])).text
    assert "Nothing is known: why." in Reader(draw([full()], "", None, [Told(0.1, "why", told().rows[3:])])).text
    assert "On the server" not in Reader(draw([full()], "", None)).text


async def test_a_monitor_that_runs_is_found(orders):
    """The page of an engine shows what its monitor knows while that runs, as HTML and as JSON, also after `dispose()`."""
    other = small(name="other")

    async def seen(url="/?format=json"):
        return await ask(debug_page(orders, other), url=url)

    async with PoolMonitor(orders, interval=0.05) as monitor, orders.connect():
        while not monitor.rows():  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.01)
        pools = (await seen()).json()["pools"]
        assert pools[0]["monitor"]["trouble"] == "the server cannot be asked"
        assert pools[0]["monitor"]["rows"][0]["holder"]["pool"] == "orders"
        assert pools[1]["monitor"] is None
        assert Reader((await seen("/")).text).text.count("Nothing is known: the server cannot be asked.") == 1
    async with PoolMonitor(orders, interval=0.05):
        await orders.dispose()
        await asyncio.sleep(0.02)
        assert (await seen()).json()["pools"][0]["monitor"]["rows"] == []
    assert [pool["monitor"] for pool in (await seen()).json()["pools"]] == [None, None]
    await other.dispose()


async def test_of_several_monitors_the_last_is_shown(orders):
    """One that is started and collected, or stopped, leaves the page to the one before."""
    first, second = PoolMonitor(orders, interval=60), PoolMonitor(orders, interval=60)
    first.start()
    second.start()
    await asyncio.sleep(0.02)
    assert len(_monitored._views[orders.pool._watch.reporter]) == 2
    await second.stop()
    assert (await ask(debug_page(orders), url="/?format=json")).json()["pools"][0]["monitor"] is not None
    await first.stop()
    assert orders.pool._watch.reporter not in _monitored._views


def test_what_is_wrong_stands_out():
    """A hold for nothing and one that is overdue are marked; a declared one is not."""
    page = draw([full()], "", None)
    assert page.count('<td class="bad">awaits orders') == 1
    assert page.count('<td class="">awaits orders') == 1
    assert page.count('<td class="n bad">12.4 s') == 1
    assert page.count('<td class="bad">its task has finished') == 1
    assert page.count('<td class="good">in the database') == 1
    for name, count in (("database", 1), ("used", 2), ("wrong", 2), ("opening", 1), ("idle", 1)):
        assert f'<span class="{name}" style="flex:{count}">' in page
    assert '<span style="flex:1">' in page


def test_nothing_becomes_markup():
    """Names, lines, tasks and reasons of an application that chose them badly are text, in every part of the page."""
    harmless, evil = (Reader(draw([full(text)], text, None, [told(text)])) for text in ("orders", EVIL))
    assert evil.tags == harmless.tags
    assert evil.attributes == harmless.attributes
    assert "script" not in evil.tags
    assert evil.open == []
    assert evil.text.count(EVIL) >= 20


def test_it_stands_alone():
    """No script, no foreign resource, light and dark."""
    page = draw([full()], "", None)
    reader = Reader(page)
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page


def test_a_pool_that_rests():
    """An empty pool says so in words."""
    text = Reader(draw([PoolSnapshot("orders", 0, -1, 0, 0, 0, 0, (), ())], "", None)).text
    assert "no limit" in text
    for part in ("Nobody holds a connection.", "Nobody queues.", "Nothing so far."):
        assert part in text
    assert "Declared" not in text


def test_more_wait_than_are_listed():
    """Where the list is cut off, the heading says so."""
    waiter = Holder("orders", None, None, 0.0, 1.0)
    assert "7 waiting, the oldest 1" in draw([PoolSnapshot("orders", 1, 0, 0, 1, 0, 7, (), (waiter,))], "", None)


@pytest.mark.parametrize(("query", "seconds"), [("refresh=2", 2), ("refresh=3600", 3600), ("refresh=1&refresh=5", 5)])
async def test_refresh(orders, query, seconds):
    """The page is loaded anew as often as wished."""
    page = (await ask(debug_page(orders), url=f"/?{query}")).text
    assert f'<meta http-equiv="refresh" content="{seconds}">' in page


@pytest.mark.parametrize(
    "query", ["", "refresh=", "refresh=0", "refresh=-1", "refresh=3601", "refresh=1e9", "refresh=%C2%B2", "refresh=2;url=x"]
)
async def test_no_refresh(orders, query):
    """Unless wished, or for a wish that makes no sense, it stays."""
    page = (await ask(debug_page(orders), url=f"/?{query}")).text
    assert "http-equiv" not in page


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "*/*", "text/html; charset=utf-8"),
        ("", "text/html,application/xhtml+xml,application/json;q=0.9", "text/html; charset=utf-8"),
        ("", "application/json", "application/json"),
        ("", "text/plain, Application/JSON;q=0.9", "application/json"),
        ("?format=json", "text/html", "application/json"),
        ("?format=html", "application/json", "text/html; charset=utf-8"),
    ],
)
async def test_page_or_json(orders, query, accept, kind):
    """The query decides, else what the client accepts; a browser gets the page."""
    response = await ask(debug_page(orders), url=f"/{query}", headers={"accept": accept})
    assert response.headers["content-type"] == kind


async def test_json_of_the_whole_snapshot(monkeypatch, orders):
    """JSON has every field of the snapshot, and the moment."""
    monkeypatch.setattr(debug, "snapshot", lambda _: full())
    response = await ask(debug.DebugPage((orders,), debug.is_loopback), url="/?format=json")
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert body["at"].endswith("+00:00")
    (pool,) = body["pools"]
    assert set(pool) == {*PoolSnapshot.__dataclass_fields__, "monitor"}
    assert pool["monitor"] is None, "none runs"
    assert pool["ended"] == {"checked_in": 85, "leaked": 0}
    assert pool["holders"][0]["state"] == "awaiting"
    assert pool["holders"][0]["site"] == {"file": "/app/orders.py", "line": 48, "function": "orders"}
    assert pool["findings"][0]["kind"] == "nested"
    assert pool["waste"][0]["seconds"] == 33.3


def test_plain_takes_everything():
    """What no JSON can hold is told as text."""
    assert json.dumps(plain({FindingKind.LEAKED: (1, 2.5, None, True, "a", {3}, HolderState.RUNNING)})) == (
        '{"leaked": [1, 2.5, null, true, "a", "{3}", "running"]}'
    )


async def test_arguments_are_checked(orders):
    """No engine, an engine without a guarded pool, and a guard that cannot be called are refused at once."""
    with pytest.raises(TypeError, match="at least one engine"):
        debug_page()
    with pytest.raises(TypeError, match="GuardedPool"):
        debug_page(create_async_engine("sqlite+aiosqlite://"))
    with pytest.raises(ValueError, match=r"allow=True is not allowed; allowed: None or a callable that takes an ASGI scope"):
        debug_page(orders, allow=True)
