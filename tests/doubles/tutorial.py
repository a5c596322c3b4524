"""The application of the Jaeger tutorial, put together from the page's blocks, and run as a reader runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import sqla_poolguard

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "jaeger.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
HOME = str(Path(sqla_poolguard.__file__).parents[1])


def run_orders(folder, endpoint):
    """
    Write `orders.py` into a folder and run it.

    Args:
        folder: an empty one.
        endpoint: address of a collector, OTLP/HTTP.

    Returns:
        Its file, and what it printed.
    """
    file = folder / "orders.py"
    file.write_text("\n\n".join(BLOCK.findall(PAGE.read_text("utf-8"))), "utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        (sys.executable, file.name),
        cwd=folder,
        env=kept | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "PYTHONPATH": HOME},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return file, done.stdout


def line_in(file, text):
    """Give the number of the first line with a text."""
    return next(number for number, line in enumerate(file.read_text("utf-8").splitlines(), 1) if text in line)
