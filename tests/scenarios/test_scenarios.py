"""Every labelled scenario: what is wrong is found, at the right line; what is right is left alone."""

from __future__ import annotations

import asyncio
import gc
import inspect

import pytest
from scenarios import awaiting, frameworks, innocents, lost  # noqa: F401 - they fill the list
from scenarios.stage import SCENARIOS, Stage

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_scenario(scenario, postgres_url):
    """A leak is found, under a name that fits, at the line that is marked; in an innocent scenario nothing is found."""
    url = postgres_url.replace("+asyncpg", f"+{scenario.driver}")
    async with Stage(url, **scenario.options) as stage:
        await scenario.play(stage)
        gc.collect()
        await asyncio.sleep(0.02)
    found = [(finding.kind, finding.current or finding.site) for finding in stage.findings.all]
    if not scenario.kinds:
        assert found == [], f"false alarm: {stage.findings.all}"
        return
    assert {kind for kind, _ in found} & set(scenario.kinds), f"missed; found {stage.findings.all}"
    named = {(site.file, site.line) for kind, site in found if kind in scenario.kinds and site is not None}
    file = inspect.getsourcefile(scenario.play)
    assert named, found
    assert named <= {(file, line) for line in scenario.lines()}, f"wrong line, not {scenario.lines()}: {stage.findings.all}"
