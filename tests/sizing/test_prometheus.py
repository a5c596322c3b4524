"""`--from` a real Prometheus, which was given a day of metrics of known figures."""

from __future__ import annotations

import math
import subprocess
import time
import urllib.request

import pytest
from doubles.bouncer import _not_root
from doubles.debian import fetch

from sqla_poolguard._cli import embedded

SERVER = ("--max-connections", 100)
BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, math.inf)
QUIET, BUSY = 5.0, 50.0
"""Checkouts per second of each of two processes; busy for ten minutes, two hours ago."""
NAME = "db_client_connection_use_time_seconds"


def history(now):
    """Write metrics as they would have been scraped: half of the holds take 30 ms, half 200 ms."""
    lines, counted = [f"# TYPE {NAME} histogram"], 0.0
    for at in range(now - 6 * 3600, now + 60, 60):
        counted += 60 * (BUSY if -7200 < at - now <= -6600 else QUIET)
        for instance in ("a", "b"):
            label = f'db_client_connection_pool_name="orders",instance="{instance}"'
            for bound in BOUNDS:
                below = (0.5 if bound >= 0.05 else 0) + (0.5 if bound >= 0.5 else 0)
                lines.append(f'{NAME}_bucket{{{label},le="{"+Inf" if bound == math.inf else bound}"}} {counted * below} {at}')
            lines += [f"{NAME}_sum{{{label}}} {counted * 0.115} {at}", f"{NAME}_count{{{label}}} {counted} {at}"]
    by_series = sorted(lines[1:], key=lambda line: line.rpartition(" ")[0].rpartition(" ")[0])
    return "\n".join([lines[0], *by_series, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus():
    """Give the address of one that has collected them."""
    root = fetch("prometheus-2.42", "bookworm", ["prometheus"])
    guardian = embedded._Guardian()
    try:
        guardian.root.chmod(0o777)
        (guardian.root / "metrics").write_text(history(int(time.time())))
        (guardian.root / "empty.yml").write_text("")
        tool = [
            root / "usr/bin/promtool",
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            guardian.root / "metrics",
            guardian.root / "tsdb",
        ]
        subprocess.run([*_not_root(), *tool], check=True, capture_output=True, timeout=60)
        port = serve(guardian, root / "usr/bin/prometheus")
        yield f"http://127.0.0.1:{port}"
    finally:
        guardian.finish()


def serve(guardian, program):
    """Start it on a port that is free, and wait until it is ready."""
    for port in embedded._PORTS[7:4000:500]:
        options = [f"--config.file={guardian.root}/empty.yml", f"--storage.tsdb.path={guardian.root}/tsdb"]
        process = guardian.launch(*_not_root(), program, *options, f"--web.listen-address=127.0.0.1:{port}")
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
                    return port
            except OSError:
                time.sleep(0.05)
    raise RuntimeError(guardian.said())


def test_busiest_five_minutes_count(size, prometheus):
    """The rate is that of all processes at their busiest; the holds are those of the whole window."""
    answer = size.answer("--from", prometheus, *SERVER, "--workers", 2, "--window", "6h")
    assert answer["load"]["checkouts_per_second"] == pytest.approx(2 * BUSY, rel=0.02)
    assert answer["load"]["hold_seconds"] == pytest.approx(0.115, rel=0.01)
    assert answer["pool"]["checkouts_per_second"] == pytest.approx(BUSY, rel=0.02)
    assert answer["simulated"]
    assert "the rate is that of the busiest five minutes, of all processes" in answer["measured"][0]["notes"][0]
    quiet = size.answer("--from", f"{prometheus}/", *SERVER, "--pool", "orders", "--window", "1h")
    assert quiet["load"]["checkouts_per_second"] == pytest.approx(2 * QUIET, rel=0.02)


def test_pool_that_it_does_not_know(size, prometheus):
    """Those that it knows are listed."""
    done = size.run("--from", prometheus, *SERVER, "--pool", "payments")
    assert done.returncode == 2
    assert "knows no pool 'payments'; choose one with --pool: 'orders'" in done.stderr


def test_web_page_that_is_no_prometheus(size, prometheus):
    """A page that is there, and one that is not."""
    done = size.run("--from", f"{prometheus}/-/ready", *SERVER)
    assert done.returncode == 2
    assert (
        "/-/ready is neither a debug page, nor metrics with db_client_connection_use_time_seconds, nor a Prometheus"
        in done.stderr
    )
    gone = size.run("--from", f"{prometheus}/nowhere", *SERVER)
    assert f"{prometheus}/nowhere answers 404" in gone.stderr
