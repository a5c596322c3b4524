"""WebSockets: refused before they are accepted, closed afterwards."""

from __future__ import annotations

import json

import pytest
from doubles.web import messages
from fastapi import FastAPI, WebSocket  # noqa: TC002 - FastAPI reads annotations

from sqla_poolguard import CheckoutTimeout, PoolSnapshot, Reason
from sqla_poolguard.asgi import PoolGuardMiddleware

ERROR = CheckoutTimeout(reason=Reason.TIMEOUT, waited=1, retry_after=2, snapshot=PoolSnapshot("orders", 1, 0, 0, 1, 0, 3, (), ()))
CLOSE = {"type": "websocket.close", "code": 1013, "reason": "no database connection"}
CAN_REFUSE = {"websocket.http.response": {}}


def after(*steps):
    """Give an application that raises after it has sent, or received ("receive"), these messages."""

    async def app(scope, receive, send):
        for step in steps:
            if step == "receive":
                await receive()
            else:
                await send({"type": step})
        raise ERROR

    return PoolGuardMiddleware(app)


@pytest.mark.parametrize("extensions", [None, {}, {"tls": {}}])
@pytest.mark.parametrize("steps", [(), ("receive",)])
async def test_refused_before_it_is_accepted(extensions, steps):
    """Where the server knows nothing else, a WebSocket that was not accepted is closed with "try again later"."""
    assert await messages(after(*steps), "websocket", extensions=extensions) == [CLOSE]


async def test_refused_with_a_response():
    """Where the server can, it is refused with the same 503 as any request."""
    start, body = await messages(after("receive"), "websocket", extensions=CAN_REFUSE)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert (b"retry-after", b"2") in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["reason"] == "timeout"


@pytest.mark.parametrize("extensions", [None, CAN_REFUSE])
@pytest.mark.parametrize("steps", [("websocket.accept",), ("websocket.accept", "websocket.send")])
async def test_closed_after_it_was_accepted(extensions, steps):
    """An accepted one is closed, also where a response would have been possible before."""
    sent = await messages(after("receive", *steps), "websocket", extensions=extensions)
    assert sent[-1] == CLOSE
    assert [message["type"] for message in sent[:-1]] == list(steps)


@pytest.mark.parametrize("steps", [("websocket.accept", "websocket.close"), ("websocket.http.response.start",)])
async def test_nothing_after_the_end(steps, caplog):
    """One that was closed, or refused by the application itself, is left alone; the log tells."""
    sent = []

    async def send(message):
        sent.append(message["type"])

    with pytest.raises(CheckoutTimeout) as caught:
        await after(*steps)({"type": "websocket", "path": "/live", "headers": []}, None, send)
    assert caught.value is ERROR
    assert sent == list(steps)
    assert caplog.records[0].getMessage().startswith("no 503 for websocket '/live'")


async def test_nothing_to_a_client_that_has_gone():
    """One whose client has disconnected is left alone: servers refuse what is sent then."""
    sent = []

    async def receive():
        return {"type": "websocket.disconnect"}

    async def send(message):
        sent.append(message["type"])

    with pytest.raises(CheckoutTimeout):
        await after("websocket.accept", "receive")({"type": "websocket", "headers": []}, receive, send)
    assert sent == ["websocket.accept"]


async def test_a_client_that_goes_meanwhile():
    """A server that raises OSError because nobody listens any more is not bothered with it."""
    assert await messages(after(), "websocket", fails=OSError()) == [CLOSE]


async def test_with_fastapi():
    """Through FastAPI's own layers, the server is told to close."""
    app = FastAPI()
    app.add_middleware(PoolGuardMiddleware)

    @app.websocket("/live")
    async def live(socket: WebSocket):
        await socket.accept()
        raise ERROR

    sent = await messages(app, "websocket", path="/live")
    assert sent[0]["type"] == "websocket.accept"
    assert sent[1:] == [CLOSE]
