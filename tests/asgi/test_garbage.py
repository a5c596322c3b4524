"""A refusal leaves nothing for the garbage collector: under overload there are thousands of them in a second."""

from __future__ import annotations

import gc
import weakref

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.web import messages, small
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from sqla_poolguard import Guard, Observer
from sqla_poolguard.asgi import PoolGuardMiddleware, add_exception_handlers


class Errors(Observer):
    """Remembers errors as long as others do."""

    def __init__(self):
        self.seen = []
        self.reasons = set()

    def rejected(self, rejection):
        """Remember one."""
        self.seen.append(weakref.ref(rejection.error))
        self.reasons.add(rejection.reason)


@pytest.fixture
def collector():
    """Do without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def application(answers, engine):
    """Give an application whose routes need a connection."""

    async def use(request):
        async with engine.connect():
            raise AssertionError

    async def use_socket(socket):
        async with engine.connect():
            raise AssertionError

    app = Starlette(routes=[Route("/", use), WebSocketRoute("/", use_socket)])
    if answers == "middleware":
        app.add_middleware(PoolGuardMiddleware)
    else:
        add_exception_handlers(app)
    return app


@pytest.mark.parametrize("refusal", ["timeout", "queue_full", "unavailable"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("answers", ["middleware", "handlers"])
@pytest.mark.usefixtures("collector")
async def test_errors_go_as_soon_as_they_are_answered(answers, kind, refusal):
    """Whichever way they are answered, and whether the request has waited or not."""
    errors = Errors()
    driver = FakeDriver(connect=Gate.ERROR if refusal == "unavailable" else Gate.OK)
    guard = Guard(name="orders", observers=(errors,), fail_fast=True, max_waiting=0 if refusal == "queue_full" else None)
    engine = small(driver, guard=guard)
    app = application(answers, engine)
    if refusal == "unavailable":
        for _ in range(10):
            await messages(app, kind)
    else:
        async with engine.connect():
            for _ in range(10):
                await messages(app, kind)
    assert (len(errors.seen), errors.reasons) == (10, {refusal})
    # the last one may be kept by what makes the next answer
    assert sum(error() is not None for error in errors.seen) <= 1
