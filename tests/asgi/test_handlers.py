"""The same 503 from the exception handlers of the frameworks."""

from __future__ import annotations

import logging

import pytest
from doubles.web import ask, messages
from fastapi import FastAPI, WebSocket  # noqa: TC002 - FastAPI reads annotations
from litestar import Litestar, get, route
from starlette.applications import Starlette
from starlette.routing import Route

from sqla_poolguard import CheckoutError, CheckoutTimeout, PoolSnapshot, Reason
from sqla_poolguard.asgi import PoolGuardMiddleware, add_exception_handlers, litestar_handlers, no_connection

ERROR = CheckoutTimeout(
    reason=Reason.TIMEOUT, waited=1, retry_after=2.1, snapshot=PoolSnapshot("orders", 1, 0, 0, 1, 0, 3, (), ())
)
CAN_REFUSE = {"websocket.http.response": {}}
METHODS = ("GET", "HEAD")


def starlette():
    """Make a Starlette application."""

    async def refuse(request):
        raise ERROR

    async def other(request):
        raise LookupError

    app = Starlette(routes=[Route("/", refuse), Route("/other", other)])
    add_exception_handlers(app)
    return app


def fastapi():
    """Make a FastAPI application."""
    app = FastAPI()
    add_exception_handlers(app)

    @app.api_route("/", methods=METHODS)
    async def refuse():
        raise ERROR

    @app.get("/other")
    async def other():
        raise LookupError

    return app


def fastapi_by_hand():
    """Make a FastAPI application that registers the handler as FastAPI's own manual does."""
    app = FastAPI()
    app.exception_handler(CheckoutError)(no_connection)

    @app.api_route("/", methods=METHODS)
    async def refuse():
        raise ERROR

    @app.get("/other")
    async def other():
        raise LookupError

    return app


def litestar():
    """Make a Litestar application."""

    @route("/", http_method=METHODS)
    async def refuse() -> None:
        raise ERROR

    @get("/other")
    async def other() -> None:
        raise LookupError

    return Litestar([refuse, other], exception_handlers=litestar_handlers, openapi_config=None, logging_config=None)


MAKERS = [starlette, fastapi, fastapi_by_hand, litestar]


@pytest.mark.parametrize("make", MAKERS)
async def test_the_same_answer(make, caplog):
    """Status, headers and body are those of the middleware, but that nobody has counted; the log has the message."""

    async def raises(scope, receive, send):
        raise ERROR

    like = await ask(PoolGuardMiddleware(raises))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sqla_poolguard"):
        response = await ask(make())
    assert response.status_code == 503
    assert {**response.json(), "retry_safe": True} == like.json() | {"retry_safe": True}
    assert response.json()["retry_safe"] is False
    for name in ("content-type", "retry-after", "cache-control"):
        assert response.headers[name] == like.headers[name]
    assert int(response.headers["content-length"]) == len(response.content)
    assert [record.getMessage()[:12] for record in caplog.records if record.name == "sqla_poolguard"] == ["answered 503"]


@pytest.mark.parametrize("make", MAKERS)
async def test_head(make):
    """HEAD has the headers of GET and no body."""
    app = make()
    (like, _), (start, *bodies) = [await messages(app, method=method) for method in ("GET", "HEAD")]
    assert start["status"] == 503
    assert sorted(start["headers"]) == sorted(like["headers"])
    assert b"".join(body.get("body", b"") for body in bodies) == b""


@pytest.mark.parametrize("make", MAKERS[:3])
async def test_other_errors(make):
    """An error of another kind is the framework's."""
    with pytest.raises(LookupError):
        await ask(make(), url="/other")


@pytest.mark.parametrize("make", MAKERS[:3])
async def test_with_the_middleware(make):
    """Where there is a middleware as well, a handler knows what it has counted."""
    app = make()
    app.add_middleware(PoolGuardMiddleware)
    assert (await ask(app)).json()["retry_safe"] is True


async def test_litestar_with_the_middleware():
    """Litestar answers before its middlewares see an error; they count for its handlers all the same."""

    @get("/")
    async def refuse() -> None:
        raise ERROR

    app = Litestar([refuse], middleware=[PoolGuardMiddleware], exception_handlers=litestar_handlers, logging_config=None)
    assert (await ask(app)).json()["retry_safe"] is True


@pytest.mark.parametrize(
    ("accept", "extensions", "kinds"),
    [
        (False, {}, ["websocket.close"]),
        (False, CAN_REFUSE, ["websocket.http.response.start", "websocket.http.response.body"]),
        (True, {}, ["websocket.accept", "websocket.close"]),
        (True, CAN_REFUSE, ["websocket.accept", "websocket.close"]),
    ],
)
async def test_websockets(accept, extensions, kinds):
    """FastAPI's WebSocket routes are refused before they are accepted, and closed with "try again later" afterwards."""
    app = FastAPI()
    add_exception_handlers(app)

    @app.websocket("/live")
    async def live(socket: WebSocket):
        if accept:
            await socket.accept()
        raise ERROR

    sent = await messages(app, "websocket", path="/live", extensions=extensions)
    assert [message["type"] for message in sent] == kinds
    if kinds[-1] == "websocket.close":
        assert (sent[-1]["code"], sent[-1]["reason"]) == (1013, "no database connection")
    else:
        assert sent[0]["status"] == 503
        assert b"no connection" not in sent[1]["body"]
        assert b"retry_safe" in sent[1]["body"]


@pytest.mark.parametrize("going", ["client", "application"])
async def test_websockets_that_are_over(going):
    """One that is over is left alone."""
    app = FastAPI()
    add_exception_handlers(app)

    @app.websocket("/live")
    async def live(socket: WebSocket):
        await socket.accept()
        if going == "client":
            await socket.receive()
        else:
            await socket.close()
        raise ERROR

    sent = await messages(app, "websocket", "websocket.connect", "websocket.disconnect", path="/live")
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"][: 1 if going == "client" else 2]
    assert sent[-1].get("code") != 1013
