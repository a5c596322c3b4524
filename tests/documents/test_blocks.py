"""Every Python block of the README and the documentation runs, in the order in which a reader meets it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doubles.scrapes import forgotten
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"jaeger.md"}  # sets up telemetry for its whole process, and so has one of its own: see test_jaeger.py
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = [
    'python3 -m venv .venv && .venv/bin/pip install ".[demo]" && .venv/bin/poolguard demo',
    "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox",
    ".venv/bin/tox -e quick",
]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```python" in page.read_text() and page.name not in ELSEWHERE],
    ids=lambda page: page.name,
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who copies the blocks of a page one after the other gets no error."""
    monkeypatch.chdir(tmp_path)
    document = Document.parse(str(page), PythonCodeBlockParser())
    examples = list(document.examples())
    assert examples
    with forgotten():
        for example in examples:
            example.evaluate()


def test_readme_commands_are_those_that_ci_runs() -> None:
    """The README gives exactly the commands that CI and the demo's tests run."""
    blocks = [body for language, body in FENCE.findall((ROOT / "README.md").read_text()) if language == "console"]
    commands = [line for body in blocks for line in body.splitlines() if line.startswith(("python3", ".venv"))]
    assert commands == COMMANDS
