"""The 503 of the middleware: what is answered, when, and what is left alone."""

from __future__ import annotations

import asyncio
import json
import logging

import anyio
import pytest
import sqlalchemy.exc
from doubles.web import ask, messages, small
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Route

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, PoolSnapshot, Reason
from sqla_poolguard._asgi import saturation
from sqla_poolguard._asgi.reply import Journal
from sqla_poolguard.asgi import PoolGuardMiddleware


def refusal(retry_after=1.2, kind=CheckoutTimeout, pool="orders", reason=Reason.TIMEOUT):
    """Give an error of a pool."""
    snapshot = PoolSnapshot(pool, 1, 0, 0, 1, 0, 3, (), ())
    return kind(reason=reason, waited=0.5, retry_after=retry_after, snapshot=snapshot)


def failing(error, **options):
    """Give an application that raises, behind the middleware."""

    async def app(scope, receive, send):
        raise error

    return PoolGuardMiddleware(app, **options)


async def test_a_route_without_a_connection_answers_503(orders):
    """FastAPI, a real engine, a pool that is exhausted: the whole answer, and the next request is served again."""
    app = FastAPI()
    app.add_middleware(PoolGuardMiddleware)

    @app.get("/")
    async def route():
        async with orders.connect():
            return "served"

    async with orders.connect():
        response = await ask(app)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert int(response.headers["content-length"]) == len(response.content)
    body = response.json()
    assert response.headers["retry-after"] == str(body["retry_after"])
    assert body["retry_after"] >= 1
    assert {**body, "retry_after": 1} == {
        "type": "tag:sqla-poolguard,2026:timeout",
        "title": "No database connection in time",
        "status": 503,
        "detail": "The service is busy and could not get a database connection in time.",
        "pool": "orders",
        "reason": "timeout",
        "retry_after": 1,
        "retry_safe": True,
    }
    assert (await ask(app)).json() == "served"


@pytest.mark.parametrize(("measured", "told"), [(None, 1), (0.0, 1), (1.0, 1), (1.01, 2), (29.5, 30)])
async def test_retry_after_is_in_whole_seconds(measured, told):
    """The time is rounded up, is never less than a second, and is the same in header and body."""
    response = await ask(failing(refusal(measured)))
    assert response.headers["retry-after"] == str(told)
    assert response.json()["retry_after"] == told


async def test_a_rejection_says_its_reason():
    """Reason, title and type are the error's own."""
    body = (await ask(failing(refusal(kind=CheckoutRejected, reason=Reason.QUEUE_FULL)))).json()
    assert (body["reason"], body["type"]) == ("queue_full", "tag:sqla-poolguard,2026:queue_full")
    assert body["title"] == CheckoutRejected.title


@pytest.mark.parametrize("pool", ["10.0.0.7:5432/orders", "db.internal", "sqlite:/srv/orders.db", "db,db2"])
async def test_an_address_is_nobodys_business(pool):
    """A pool that was given no name is called after its database; that is left out, with everything else inside."""
    response = await ask(failing(refusal(pool=pool)))
    assert "pool" not in response.json()
    assert pool not in response.text


@pytest.mark.parametrize("pool", ["orders", "orders#2", "orders_read-1"])
async def test_a_name_is_told(pool):
    """A name that an application gave is told."""
    assert (await ask(failing(refusal(pool=pool)))).json()["pool"] == pool


async def test_the_trace_is_told():
    """Inside a span the answer names its trace; outside of one it does not."""
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("request") as span:
        body = (await ask(failing(refusal()))).json()
    assert body["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert "trace_id" not in (await ask(failing(refusal()))).json()


async def test_head_has_no_body():
    """HEAD is told what GET would be, with the length, and no body."""
    app = failing(refusal())
    start, body = await messages(app, method="HEAD")
    like, full = await messages(app, method="GET")
    assert start == like
    assert (b"content-length", str(len(full["body"])).encode()) in start["headers"]
    assert full["body"]
    assert body["body"] == b""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        TimeoutError(),
        sqlalchemy.exc.TimeoutError("QueuePool limit"),
        sqlalchemy.exc.OperationalError("SELECT 1", {}, ConnectionRefusedError()),
        ExceptionGroup("mine", [ValueError("one")]),
        ExceptionGroup("mixed", [refusal(), ValueError("two")]),
        ExceptionGroup("deeply mixed", [refusal(), ExceptionGroup("inner", [refusal(), KeyError("two")])]),
        asyncio.CancelledError(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_every_other_error_is_left_alone(error, kind):
    """What is not, or not only, the pool's refusal goes through, the very same object, and nothing is sent."""
    sent = None
    with pytest.raises(type(error)) as caught:
        sent = await messages(failing(error), kind)
    assert caught.value is error
    assert sent is None


@pytest.mark.parametrize(
    ("group", "told"),
    [
        (ExceptionGroup("one", [refusal(3)]), 3),
        (ExceptionGroup("nested", [ExceptionGroup("one", [refusal(3)])]), 3),
        (ExceptionGroup("several", [refusal(3), refusal(7), refusal(None)]), 7),
        (ExceptionGroup("deep", [refusal(9), ExceptionGroup("two", [refusal(3), refusal(2)])]), 9),
    ],
    ids=str,
)
async def test_groups_of_refusals_are_one(group, told):
    """A group that holds nothing but refusals is the one after which to wait the longest."""
    response = await ask(failing(group))
    assert (response.status_code, response.headers["retry-after"]) == (503, str(told))


async def with_asyncio(engine):
    """Ask in a task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.connect().__aenter__())


async def with_anyio(engine):
    """Ask in a task group of anyio, inside another one."""
    async with anyio.create_task_group(), anyio.create_task_group() as group:
        group.start_soon(engine.connect().__aenter__)


@pytest.mark.parametrize("fan_out", [with_asyncio, with_anyio])
async def test_task_groups_and_base_http_middleware(orders, fan_out):
    """A refusal in a task group, through Starlette's BaseHTTPMiddleware, which runs the application in another task."""

    async def route(request):
        await fan_out(orders)

    async def through(request, call_next):
        return await call_next(request)

    app = Starlette(routes=[Route("/", route)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=through)
    app.add_middleware(PoolGuardMiddleware)
    async with orders.connect():
        response = await ask(app)
    assert response.status_code == 503
    assert response.json()["retry_safe"] is True


async def test_never_after_the_response_has_begun(orders, caplog):
    """A stream that needs a connection in its middle ends in the error itself; the log tells once, and nothing is sent twice."""

    async def rows():
        yield "first"
        async with orders.connect():
            yield "never"

    async def route(request):
        return StreamingResponse(rows())

    sent = []
    app = PoolGuardMiddleware(Starlette(routes=[Route("/rows", route)]))

    async def watched(scope, receive, send):
        async def note(message):
            sent.append(message["type"])
            await send(message)

        await app(scope, receive, note)

    async with orders.connect():
        with caplog.at_level(logging.WARNING, "sqla_poolguard"), pytest.raises((CheckoutTimeout, ExceptionGroup)):
            await ask(watched, url="/rows?secret=1")
    assert sent.count("http.response.start") == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("no 503 for GET '/rows', its response had begun: no connection after")
    assert record.poolguard.pool == "orders"


async def test_the_very_error_is_raised_after_the_start():
    """What is raised again is the object that came, a group as the group."""
    group = ExceptionGroup("one", [refusal()])

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise group

    with pytest.raises(ExceptionGroup) as caught:
        await messages(PoolGuardMiddleware(app))
    assert caught.value is group


async def test_a_client_that_has_gone():
    """A server that raises OSError because nobody listens any more is not bothered with it."""
    sent = await messages(failing(refusal()), fails=OSError("client disconnected"))
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_lifespan_goes_through():
    """Startup and shutdown are the application's: a refusal there is no answer to anybody."""
    error = refusal()
    with pytest.raises(CheckoutTimeout) as caught:
        await messages(failing(error), "lifespan")
    assert caught.value is error


async def test_what_is_answered_is_logged(caplog, monkeypatch):
    """The answer swallows the error, so the log has its message: once a minute for each pool, with a count of the others."""
    now = [0.0]
    monkeypatch.setattr("sqla_poolguard._asgi.middleware.journal", Journal(lambda: now[0]))
    told = []
    with caplog.at_level(logging.WARNING, "sqla_poolguard"):
        for moment, pool in ((0, "a"), (1, "a"), (59.9, "a"), (59.9, "b"), (60, "a"), (61, "a"), (120, "a")):
            now[0] = moment
            await ask(failing(refusal(pool=pool)))
            told.append(len(caplog.records))
    assert told == [1, 1, 1, 2, 3, 3, 4]
    first, _, third, fourth = (record.getMessage() for record in caplog.records)
    assert first.startswith("answered 503: no connection after 0.50 s: pool 'a'")
    assert third.startswith("answered 503 (2 more since the last record): no")
    assert fourth.startswith("answered 503 (1 more since the last record): no")
    assert caplog.records[0].poolguard.pool == "a"


async def test_another_error_of_the_contract(monkeypatch):
    """Whatever has the same attributes becomes 503 once it is on the list, an OperationalError with them."""

    class DownError(sqlalchemy.exc.OperationalError):
        status_code, reason, retry_after = 503, "unavailable", 4.0
        snapshot = PoolSnapshot("orders", 1, 0, 0, 0, 0, 0, (), ())

        def to_problem(self):
            return {"type": "tag:x", "title": "Down", "status": 503, "detail": "Down.", "reason": "unavailable"}

    error = DownError("SELECT secret", {}, ConnectionRefusedError("10.0.0.7"))
    with pytest.raises(DownError):
        await ask(failing(error))
    monkeypatch.setattr(saturation, "SATURATION", (*saturation.SATURATION, DownError))
    response = await ask(failing(error))
    assert (response.status_code, response.headers["retry-after"]) == (503, "4")
    assert response.json() == {
        **error.to_problem(),
        "pool": "orders",
        "retry_after": 4,
        "retry_safe": True,
    }
    assert "secret" not in response.text
    assert "10.0.0.7" not in response.text


async def test_the_answer_is_json_that_is_complete():
    """The body that is sent is one message of valid JSON."""
    _, body = await messages(failing(refusal()))
    assert json.loads(body["body"])["status"] == 503
    assert not body.get("more_body")


async def test_two_engines_are_told_apart():
    """The answer names the pool that refused."""
    one, two = small(name="one"), small(name="two")

    async def app(scope, receive, send):
        async with one.connect(), two.connect():
            pass

    async with two.connect():
        assert (await ask(PoolGuardMiddleware(app))).json()["pool"] == "two"
    await one.dispose()
    await two.dispose()
