"""Of all waits that went out, the demo points at the most telling one."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode, format_trace_id

from sqla_poolguard._cli.demo.clue import Clues
from sqla_poolguard._cli.demo.screen import _pointer


class Seen(SpanExporter):
    """Shows the spans to the clues."""

    def __init__(self):
        self.clues = Clues()

    def export(self, spans):
        """Show them."""
        for span in spans:
            self.clues.see(span)
        return SpanExportResult.SUCCESS


@pytest.fixture
def seen():
    """What was seen."""
    return Seen()


@pytest.fixture
def tracer(seen):
    """A tracer whose spans are seen as they end."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(seen))
    return provider.get_tracer("test")


def request(tracer, name, **attributes):
    """Draw a request that waited, and give its trace."""
    failed = attributes.pop("failed", False)
    with tracer.start_as_current_span(name) as root:
        described = {f"poolguard.{key.replace('__', '.')}": value for key, value in attributes.items()}
        with tracer.start_as_current_span("pool.acquire shop", attributes=described) as wait:
            if failed:
                wait.set_status(StatusCode.ERROR)
    return format_trace_id(root.get_span_context().trace_id)


def wait(seconds, holder, outcome="granted"):
    """Describe a wait."""
    return {"wait_time": seconds, "outcome": outcome, "holder__trace_id": holder, "holder__site": "app.py:1 in pay"}


def test_nobody_waited_for_anybody(tracer, seen):
    """A wait for a connect points at nobody."""
    request(tracer, "GET /slow", wait_time=9.0, outcome="granted")
    assert seen.clues.best() is None


def test_longest_wait(tracer, seen):
    """Of waits that ended well, the longest."""
    holder = request(tracer, "POST /pay")
    request(tracer, "GET /b", **wait(0.1, holder))
    longest = request(tracer, "GET /a", **wait(0.3, holder))
    request(tracer, "GET /c", **wait(0.2, holder))
    clue = seen.clues.best()
    assert (clue.waited, clue.waiter, clue.seconds) == (longest, "GET /a", 0.3)
    assert (clue.held, clue.holder, clue.site) == (holder, "POST /pay", "app.py:1 in pay")


def test_failed_wait_comes_first(tracer, seen):
    """A wait in vain tells more than any that ended well."""
    holder = request(tracer, "POST /pay")
    failed = request(tracer, "GET /a", failed=True, **wait(0.1, holder, "timeout"))
    request(tracer, "GET /b", **wait(9.0, holder))
    assert (seen.clues.best().waited, seen.clues.best().outcome) == (failed, "timeout")


def test_holder_that_was_not_seen(tracer, seen):
    """A holder whose request is still open, or another service's, is still somebody."""
    request(tracer, "GET /a", **wait(0.1, "0" * 31 + "1"))
    assert seen.clues.best().holder == "a request"


@pytest.mark.parametrize(
    ("collector", "host"), [("https://jaeger.example:4317", "jaeger.example"), ("http://[::1]:4318", "[::1]")]
)
def test_pointer(tracer, seen, collector, host):
    """The addresses are those of Jaeger's usual port, at the host of the collector."""
    request(tracer, "GET /a", **wait(0.1, "0" * 31 + "1"))
    lines = _pointer(seen.clues.best().to_json(), collector)
    assert [line.strip() for line in lines if "http" in line] == [
        f"http://{host}:16686/trace/{trace}" for trace in (seen.clues.best().waited, "0" * 31 + "1")
    ]
