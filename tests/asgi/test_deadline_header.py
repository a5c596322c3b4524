"""The client's deadline: read from a header, capped, and kept by every checkout of the request."""

from __future__ import annotations

import asyncio
import math

import pytest
from doubles.web import ask, messages

from sqla_poolguard import _urgency
from sqla_poolguard.asgi import PoolGuardMiddleware

NAME = "X-Request-Timeout"


@pytest.fixture(autouse=True)
def frozen(monkeypatch):
    """Stop the clock of deadlines at 100 s."""
    monkeypatch.setattr(_urgency, "clock", lambda: 100.0)


async def due_with(*values, kind="http", name=NAME, **options):
    """Tell in how many seconds a request with these header values is due; None for never."""
    found = []

    async def app(scope, receive, send):
        await asyncio.create_task(look())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def look():
        found.append(_urgency.due() - 100.0)

    headers = [(name.encode(), value.encode()) for value in values]
    await messages(PoolGuardMiddleware(app, **options), kind, headers=headers)
    assert _urgency.due() == math.inf
    return round(found[0], 6) if found[0] < math.inf else None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.25", 0.25),
        (".5", 0.5),
        ("3.", 3.0),
        (" 4 ", 4.0),
        ("0", 0.0),
        ("30", 30.0),
        ("31", 30.0),
        ("9" * 400, 30.0),
    ],
)
async def test_what_is_read(value, seconds):
    """A number of seconds is the deadline, of the tasks of the request too; more than the cap is the cap."""
    assert await due_with(value, deadline_header=NAME) == seconds


@pytest.mark.parametrize("value", ["", "-1", "nan", "inf", "1e3", "0x10", "1_0", "+1", "2s", "1,5", "1 2", "soon", "\u00b2", "."])
async def test_what_cannot_be_read_is_ignored(value):
    """A value that is no plain number sets no deadline."""
    assert await due_with(value, deadline_header=NAME) is None


async def test_it_is_off_by_default():
    """Without the option no header means anything, and with it no other header does."""
    assert await due_with("2") is None
    assert await due_with("2", name="x-other", deadline_header=NAME) is None
    assert await due_with(deadline_header=NAME) is None


async def test_of_several_the_nearest():
    """Where a proxy has added its own, the nearest counts; one that cannot be read takes nothing away."""
    assert await due_with("5", "soon", "3", "4", deadline_header=NAME) == 3.0


async def test_milliseconds():
    """The header may count milliseconds; the cap is in seconds."""
    options = {"deadline_header": NAME, "deadline_unit": "ms"}
    assert await due_with("250", **options) == 0.25
    assert await due_with("60000", **options, max_deadline=1.5) == 1.5


async def test_a_websocket_has_none():
    """The header of a handshake says nothing of the hours that a connection lasts."""
    assert await due_with("2", kind="websocket", deadline_header=NAME) is None


async def test_the_name_in_any_case():
    """Header names have no case."""
    assert await due_with("2", name="x-request-timeout", deadline_header="X-REQUEST-TIMEOUT") == 2.0

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(_urgency.due()).encode()})

    response = await ask(PoolGuardMiddleware(app, deadline_header=NAME), headers={"x-REQUEST-timeout": "7"})
    assert response.text == "107.0"


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("deadline_header", "", "None or the name of an HTTP header"),
        ("deadline_header", "x timeout", "None or the name of an HTTP header"),
        ("deadline_header", "größe", "None or the name of an HTTP header"),
        ("deadline_header", 5, "None or the name of an HTTP header"),
        ("deadline_unit", "min", "'s' or 'ms'"),
        ("max_deadline", 0, "a number of seconds, more than 0"),
        ("max_deadline", -1.0, "a number of seconds, more than 0"),
        ("max_deadline", math.inf, "a number of seconds, more than 0"),
        ("max_deadline", math.nan, "a number of seconds, more than 0"),
        ("max_deadline", True, "a number of seconds, more than 0"),
        ("max_deadline", "30", "a number of seconds, more than 0"),
        ("count_statements", "no", "True or False"),
    ],
)
def test_options_are_checked(option, value, allowed):
    """A wrong option is refused at once, by name and value, with what is allowed."""
    with pytest.raises(ValueError, match=option) as caught:
        PoolGuardMiddleware(None, **{option: value})
    assert str(caught.value) == f"{option}={value!r} is not allowed; allowed: {allowed}"
