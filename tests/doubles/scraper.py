"""A real Prometheus that scrapes for as long as a test wants, and answers queries."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from doubles.debian import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

__all__ = ["PATIENCE", "Scraper", "promtool"]

PATIENCE = 60.0
"""Seconds after which something will never happen: it begins to scrape after five, and the machine may be busy."""
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Prometheus' own tool."""
    tool = _programs() / "promtool"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE)


def _programs() -> Path:
    return fetch("prometheus-2.42", "bookworm", ["prometheus"]) / "usr" / "bin"


class Scraper:
    """One Prometheus; a context manager that ends it."""

    def __init__(self, folder: Path, targets: Mapping[str, int], rules: str) -> None:
        """
        Prepare it.

        Args:
            folder: where it may write.
            targets: job and port of what it scrapes.
            rules: its rule file.
        """
        jobs = [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in targets.items()]
        often = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        self._folder = folder
        (folder / "rules.yml").write_text(rules)
        self.config = folder / "prometheus.yml"
        self.config.write_text(json.dumps({"global": often, "rule_files": ["rules.yml"], "scrape_configs": jobs}))
        self._port = _free_port()

    def __enter__(self) -> Self:
        command = [
            str(_programs() / "prometheus"),
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        self._log = (self._folder / "log").open("w")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd=self._folder)
        try:
            self.until(self._is_ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError((self._folder / "log").read_text())
        try:
            with _direct.open(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                message = f"{condition} is not so after {PATIENCE} s; the log: {(self._folder / 'log').read_text()}"
                raise TimeoutError(message)
            time.sleep(0.1)

    def get(self, path: str, **arguments: str | list[str]) -> Any:
        """Ask its API."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(arguments, doseq=True)}"
        try:
            with _direct.open(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            message = f"{arguments}: {error.read().decode()}"
            raise ValueError(message) from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now: label sets and values."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
