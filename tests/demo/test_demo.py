"""`poolguard demo` as a user runs it: real server, real load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from doubles.collector import Collector, values

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def test_json_is_one_document_with_acts_that_passed(poolguard):
    """All three acts pass, and their figures fit together."""
    done = poolguard.show("demo", "--json", "--quick")
    assert done.stderr == ""
    outcome = json.loads(done.stdout)
    assert done.returncode == 0, outcome
    assert outcome["passed"] is True
    assert [(act["name"], act["passed"]) for act in outcome["acts"]] == [("burst", True), ("culprit", True), ("leak", True)]
    burst, culprit, leak = (act["figures"] for act in outcome["acts"])
    assert burst["guarded"]["throughput"] > burst["stock"]["throughput"] > 0
    assert burst["guarded"]["p99"] < burst["stock"]["p99"]
    assert burst["guarded"]["peak"] == 15
    assert burst["guarded"]["typical"] > burst["stock"]["typical"] > 0
    assert {(each["pool"], each["answered"]) for each in burst["rounds"]} == {("stock", 250), ("guarded", 250)}
    assert set(culprit["statuses"]) == {503}
    assert culprit["problem"]["reason"] == "timeout"
    assert int(culprit["retry_after"]) >= 1
    assert f"{culprit['line']} in pay_order" in culprit["error"]
    assert culprit["code"].startswith("amount = await session.scalar(")
    assert culprit["age"] >= 1.5
    assert "QueuePool limit" in culprit["stock_error"]
    assert culprit["line"] not in culprit["stock_error"]
    assert len(leak["messages"]) == 3
    assert all(f"{leak['line']} in revenue" in message for message in leak["messages"])


def test_piped_output_is_plain(poolguard):
    """No colours, no control codes, no line over 80 columns, no blanks at the end of lines."""
    done = poolguard.show("demo", "--act", "leak", "--act", "culprit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert not CONTROL.search(done.stdout)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line != line.rstrip()] == []
    assert "1  The leak" in lines
    assert "2  The culprit" in lines


def test_own_server_and_no_unicode(poolguard, postgres_url):
    """`--dsn` takes the address as psql has it and starts no server; where Unicode cannot be printed, ASCII is."""
    address = postgres_url.replace("+asyncpg", "")
    env = {"POOLGUARD_PG_BINDIR": "/nowhere", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = poolguard.show("demo", "--act", "leak", "--dsn", address, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "its own" not in done.stdout
    assert done.stdout.isascii()


@pytest.fixture
def collector():
    """An OTLP collector."""
    with Collector() as listening:
        yield listening


def test_telemetry_arrives(poolguard, collector, postgres_url):
    """`--otlp` sends spans and the pool's metrics, and says how many."""
    done = poolguard.show("demo", "--json", "--act", "leak", "--otlp", collector.http, "--dsn", postgres_url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    sent = json.loads(done.stdout)["telemetry"]
    assert sent["spans"] >= 3
    assert sent["look_at"] is None  # nobody waited
    assert "db.client.connection.count" in sent["metrics"]
    assert_came(collector, "http/protobuf")
    assert len(collector.spans()) == sent["spans"]
    assert {each.item.name for each in collector.metrics()} == set(sent["metrics"])


def assert_came(collector, protocol):
    """Spans and metrics of the demo have come by this protocol alone."""
    spans, metrics = collector.spans(), collector.metrics()
    assert spans
    assert metrics
    assert {each.protocol for each in spans + metrics} == {protocol}
    assert {each.resource["service.name"] for each in spans + metrics} == {"poolguard-demo"}


def test_points_at_who_waited_and_who_held(poolguard, collector, postgres_url):
    """Over gRPC as well; it ends with the addresses of two traces in Jaeger, in which the way to the line is drawn."""
    arguments = ("--otlp", collector.grpc, "--otlp-protocol", "grpc", "--dsn", postgres_url)
    done = poolguard.show("demo", "--act", "culprit", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert_came(collector, "grpc")
    waited, held = re.findall(r"^   http://127.0.0.1:16686/trace/([0-9a-f]{32})$", done.stdout, re.MULTILINE)
    traces = {trace: [each.item for each in collector.spans() if each.item.trace_id.hex() == trace] for trace in (waited, held)}
    (wait,) = [span for span in traces[waited] if span.name == "pool.acquire shop"]
    (hold,) = [span for span in traces[held] if span.name == "pool.hold shop"]
    assert wait.links[0].trace_id == hold.trace_id
    found = values(hold.attributes)
    source = Path(found["code.file.path"]).read_text("utf-8").splitlines()
    assert "# culprit:" in source[found["code.line.number"] - 1]
    assert f"app.py:{found['code.line.number']} in pay_order:" in done.stdout
