"""What the tutorial promises: `poolguard demo --otlp`, and then from the request that waited to the line that held, in Jaeger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sqla_poolguard
from sqla_poolguard._cli.demo import app

HOME = str(Path(sqla_poolguard.__file__).parents[1])
SOURCE = Path(app.__file__)
SERVICE = "poolguard-demo"
SERVER, ERROR = 2, 2


def line_of(mark):
    """Find the line of the shop that has a comment beginning with a mark."""
    (number,) = (n for n, line in enumerate(SOURCE.read_text("utf-8").splitlines(), 1) if f"# {mark}:" in line)
    return number


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def demo(request, jaeger):
    """
    Run the demo's act of the culprit, as a user would; gives the protocol, and what it said of its telemetry.

    Not that of the leak: a hold that was never sampled is lost to the trace, and those of the demo may be over before a sample.
    """
    protocol = request.param
    address = {"http/protobuf": jaeger.http, "grpc": jaeger.grpc}[protocol]
    arguments = ("--otlp", address, "--otlp-protocol", protocol)
    done = subprocess.run(
        (sys.executable, "-P", "-m", "sqla_poolguard", "demo", "--json", "--act", "culprit", *arguments),
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | {"PYTHONPATH": HOME},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return protocol, json.loads(done.stdout)["telemetry"]


def check_search(jaeger, demo, table):
    """A person who knows nothing finds the service, and by the name of the span those who waited."""
    protocol, sent = demo
    table.about(f"poolguard demo --otlp, over {protocol}: the search")
    table.holds("spans sent, lost", (sent["spans"], sent["lost"]), sent["spans"] > 100 and sent["lost"] == 0)
    table.equal("metrics, of which Jaeger takes none", (sent["takes_metrics"], sent["metrics"]), (False, []))
    table.holds("services", jaeger.services(), SERVICE in jaeger.services())
    names = {name for name, _ in jaeger.operations(SERVICE)}
    table.holds("operations", "pool.acquire shop, pool.hold shop", {"pool.acquire shop", "pool.hold shop"} <= names)
    found = jaeger.find(SERVICE, "pool.acquire shop", **{"poolguard.outcome": "timeout"})
    waits = [span for span in found if span.name == "pool.acquire shop" and span.attributes["poolguard.outcome"] == "timeout"]
    table.holds("found by poolguard.outcome=timeout", f"{len(waits)} waits", len(waits) >= 8)
    table.holds(
        "among them the one that the demo names",
        sent["look_at"]["waited"],
        sent["look_at"]["waited"] in {s.trace_id for s in waits},
    )


def check_way_from_waiter_to_line(jaeger, demo, table):
    """From the request that waited, by the link or by the attributes, to the request that held, and to file and line."""
    protocol, sent = demo
    clue = sent["look_at"]
    table.about(f"poolguard demo --otlp, over {protocol}: the request that waited")
    spans = jaeger.trace(clue["waited"], "pool.acquire shop")
    (root,) = [span for span in spans if not span.parent_id]
    (wait,) = [span for span in spans if span.name == "pool.acquire shop"]
    table.equal("request", root.name.split(" ")[0] + " " + root.attributes["url.path"], "GET /shop/guarded/orders")
    table.equal("its kind, status", (root.kind, root.status), (SERVER, ERROR))
    table.holds("inside of it", wait.name, root.start <= wait.start < wait.end <= root.end and has_ancestor(spans, wait, root))
    table.equal("error.type", wait.attributes["error.type"], "sqla_poolguard.errors.CheckoutTimeout")
    table.holds("seconds", (wait.end - wait.start) / 1e9, 1.5 <= (wait.end - wait.start) / 1e9 < 5)
    table.equal("poolguard.verdict.cause", wait.attributes["poolguard.verdict.cause"], "held_across_await")
    table.holds(
        "links", [link.trace_id for link in wait.links], wait.links[0].trace_id == wait.attributes["poolguard.holder.trace_id"]
    )
    table.holds(
        "events", sorted({event.name for event in wait.events}), "poolguard.queue" in {event.name for event in wait.events}
    )
    table.equal("poolguard.holder.site", wait.attributes["poolguard.holder.site"], f"{clue['site']}")
    table.holds("it is the culprit's line", line_of("culprit"), f"app.py:{line_of('culprit')} in pay_order" in clue["site"])

    table.about(f"poolguard demo --otlp, over {protocol}: the request that held")
    spans = jaeger.trace(wait.links[0].trace_id, "pool.hold shop")
    (root,) = [span for span in spans if not span.parent_id]
    (linked,) = [span for span in spans if span.span_id == wait.links[0].span_id]
    (hold,) = [span for span in spans if span.name == "pool.hold shop"]
    table.equal("request", root.name.split(" ")[0] + " " + root.attributes["url.path"], "POST /shop/guarded/orders/7/pay")
    waiters = [
        event.attributes["poolguard.waiter.trace_id"] for event in linked.events if event.name == "poolguard.blocked_waiter"
    ]
    table.holds("event poolguard.blocked_waiter", clue["waited"], clue["waited"] in waiters)
    table.holds("link back", clue["waited"], clue["waited"] in {link.trace_id for link in linked.links})
    table.equal("poolguard.found", hold.attributes["poolguard.found"], ["held_across_await"])
    table.holds("poolguard.held", hold.attributes["poolguard.held"], hold.attributes["poolguard.held"] > 1.5)
    table.equal("file", hold.attributes["code.file.path"], str(SOURCE))
    table.equal("line", hold.attributes["code.line.number"], line_of("culprit"))
    text = SOURCE.read_text("utf-8").splitlines()[hold.attributes["code.line.number"] - 1].partition("#")[0].strip()
    table.holds("what stands there", text, text.startswith("amount = await session.scalar("))
    (gap,) = [event for event in hold.events if event.name == "poolguard.idle"]
    table.equal("event poolguard.idle: what it awaited", gap.attributes["poolguard.awaiting"], "httpx AsyncClient.post")


def has_ancestor(spans, span, ancestor):
    """Tell whether a span is inside another, at whatever depth."""
    by_id = {each.span_id: each for each in spans}
    while span.parent_id:
        if span.parent_id == ancestor.span_id:
            return True
        span = by_id[span.parent_id]
    return False
