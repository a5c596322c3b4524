"""A real Prometheus that scrapes a real service on a real PostgreSQL, for as long as a module's tests last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doubles.scraper import PATIENCE, Scraper

from sqla_poolguard.prometheus import rules

HERE = Path(__file__).parent


class Shop:
    """The service, in a process of its own."""

    def __init__(self, url):
        command = [sys.executable, "-P", "-W", "ignore", str(HERE / "shop.py"), url]
        path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        ports = self.process.stdout.readline().split()
        assert len(ports) == 2, "the service did not start"
        self.targets = dict(zip(("native", "otel"), map(int, ports), strict=True))

    def calm_down(self):
        """Let it serve its metrics, and nobody ask for a connection."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "quiet\n"

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def shop(postgres_url):
    """Give the service, at work."""
    service = Shop(postgres_url)
    yield service
    service.close()


@pytest.fixture(scope="module")
def scraper(shop, tmp_path_factory):
    """Give a Prometheus that has scraped it several times, with our rules loaded."""
    with Scraper(tmp_path_factory.mktemp("prometheus"), shop.targets, rules()) as prometheus:
        seen = "min(count_over_time(db_client_connection_idle_min[5m])) >= 6 and count(count by (job) (up == 1)) == 2"
        prometheus.until(lambda: prometheus.query(seen))
        yield prometheus
