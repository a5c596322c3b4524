"""`poolguard demo` as a user runs it: real server, real load."""

from __future__ import annotations

import json
import re

import pytest
from doubles.collector import Collector

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


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_telemetry_arrives(poolguard, collector, postgres_url, protocol):
    """`--otlp` sends spans and the pool's metrics by the protocol that is asked for, and says how many."""
    arguments = ["--otlp", collector.address(protocol), *(["--otlp-protocol", protocol] if protocol == "grpc" else [])]
    done = poolguard.show("demo", "--json", "--act", "leak", *arguments, "--dsn", postgres_url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    sent = json.loads(done.stdout)["telemetry"]
    assert sent["spans"] >= 3
    assert "db.client.connection.count" in sent["metrics"]
    spans, metrics = collector.spans(), collector.metrics()
    assert len(spans) == sent["spans"]
    assert {each.item.name for each in metrics} == set(sent["metrics"])
    assert {each.protocol for each in spans + metrics} == {protocol}
    assert {each.resource["service.name"] for each in spans + metrics} == {"poolguard-demo"}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_collector_that_takes_no_metrics(poolguard, postgres_url, protocol):
    """Jaeger takes no metrics: it is sent none, and the demo says so."""
    with Collector(metrics=False) as jaeger:
        arguments = ("--otlp", jaeger.address(protocol), "--otlp-protocol", protocol)
        done = poolguard.show("demo", "--act", "leak", *arguments, "--dsn", postgres_url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "spans (it takes no metrics, as Jaeger)" in done.stdout
        assert jaeger.spans()
