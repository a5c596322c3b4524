"""The application of the tutorial, against a real Jaeger."""

from __future__ import annotations

from doubles.tutorial import line_in, run_orders


def check_orders(jaeger, table, tmp_path):
    """A reader who writes the page's blocks into a file finds in Jaeger what the page says."""
    file, printed = run_orders(tmp_path, jaeger.http)
    table.about("orders.py of docs/tutorials/jaeger.md")
    table.equal("what it prints", printed.strip(), "503")
    table.holds("services", jaeger.services(), "orders" in jaeger.services())
    found = jaeger.find("orders", "pool.acquire orders", **{"poolguard.outcome": "timeout"})
    (root,) = [span for span in found if not span.parent_id]
    (wait,) = [span for span in found if span.name == "pool.acquire orders"]
    table.equal("the request that waited", root.name, "GET /orders")
    line = line_in(file, "async with engine.connect() as connection:")
    site = wait.attributes["poolguard.holder.site"]
    table.holds("poolguard.holder.site", site, site.endswith(f"orders.py:{line} in report"))
    spans = jaeger.trace(wait.links[0].trace_id, "pool.hold orders")
    (root,) = [span for span in spans if not span.parent_id]
    (hold,) = [span for span in spans if span.name == "pool.hold orders"]
    table.equal("the request that held", root.name, "GET /report")
    table.equal("poolguard.found", hold.attributes["poolguard.found"], ["overdue"])
    table.equal("line", hold.attributes["code.line.number"], line)
