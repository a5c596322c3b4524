"""`poolguard demo` as a user runs it: real server, real load."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

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
    """An OTLP collector that only notes what comes; gives its address and the paths."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if body:
                paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


def test_telemetry_arrives(poolguard, collector, postgres_url):
    """`--otlp` sends spans and the pool's metrics, and says how many."""
    url, paths = collector
    done = poolguard.show("demo", "--json", "--act", "leak", "--otlp", url, "--dsn", postgres_url)
    assert done.returncode == 0, done.stdout + done.stderr
    sent = json.loads(done.stdout)["telemetry"]
    assert sent["spans"] >= 3
    assert "db.client.connection.count" in sent["metrics"]
    assert set(paths) == {"/v1/traces", "/v1/metrics"}
