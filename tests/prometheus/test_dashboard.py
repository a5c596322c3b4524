"""The dashboard that is checked in is the one that its builder builds, and Prometheus can read all of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from doubles.expressions import asked_by, panels
from doubles.scraper import promtool

from sqla_poolguard.prometheus import dashboard

BUILDER = Path(__file__).parents[2] / "docs" / "grafana" / "dashboard.py"
ASKED = {
    "who waits": "Requests waiting",
    "how long": "Wait time",
    "saturation": "In use",
    "holds": "Held while awaiting something else",
    "leaks": "Leaks",
    "rejections": "Requests that got no connection",
    "would-reject": "Would have been rejected",
    "timeouts": "Timeouts",
    "breaker": "Breaker",
    "connects": "Connections opened",
}


def test_it_is_what_its_builder_builds():
    """`python docs/grafana/dashboard.py --write` was run after the last change."""
    spec = importlib.util.spec_from_file_location("dashboard", BUILDER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == dashboard()


def test_it_answers_every_question():
    """There is a panel for each thing that one wants to know, with words about it, and none lies upon another."""
    made = [panel for panel in json.loads(dashboard())["panels"] if panel["type"] != "row"]
    assert set(ASKED.values()) <= {panel["title"] for panel in made}
    assert [panel["title"] for panel in made if not panel["description"] or not panel["targets"]] == []
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in made
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))


def test_it_can_be_imported_anywhere():
    """It names no data source, service or pool of its own: all of these are chosen above it."""
    made = json.loads(dashboard())
    assert [variable["name"] for variable in made["templating"]["list"]] == ["datasource", "job", "instance", "pool"]
    sources = {json.dumps(panel["datasource"]) for panel in made["panels"] if panel["type"] != "row"}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    assert "id" not in made or made["id"] is None
    for panel in panels("chosen"):
        assert panel.expression.count('job=~"chosen"') == len(asked_by(panel.expression))


def test_promtool_reads_every_query(tmp_path):
    """Prometheus' own parser takes each of them."""
    queries = [{"record": f"panel{number}", "expr": panel.expression} for number, panel in enumerate(panels("shop"))]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": queries}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
