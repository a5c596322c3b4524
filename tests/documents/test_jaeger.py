"""The application of the Jaeger tutorial: its spans arrive, and lead from the request that waited to the line that held."""

from __future__ import annotations

from doubles.collector import Collector, values
from doubles.tutorial import line_in, run_orders


def test_orders(tmp_path):
    """The page's blocks, in one file, are a program whose spans show what the page says."""
    with Collector(metrics=False) as jaeger:
        file, printed = run_orders(tmp_path, jaeger.http)
        spans = [each.item for each in jaeger.spans()]
        assert {each.resource["service.name"] for each in jaeger.spans()} == {"orders"}
    assert printed == "503\n"
    (wait,) = [span for span in spans if span.name == "pool.acquire orders" and span.links]
    (hold,) = [span for span in spans if span.name == "pool.hold orders"]
    assert [link.trace_id for link in wait.links] == [hold.trace_id]
    assert {span.trace_id: span.name for span in spans if not span.parent_span_id} == {
        wait.trace_id: "GET /orders",
        hold.trace_id: "GET /report",
    }
    line = line_in(file, "async with engine.connect() as connection:")
    assert values(wait.attributes)["poolguard.holder.site"].endswith(f"orders.py:{line} in report")
    assert values(hold.attributes)["code.line.number"] == line
    assert values(hold.attributes)["poolguard.found"] == ["overdue"]
