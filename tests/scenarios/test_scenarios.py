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


TRIES = 3
"""Times a leak may be played: it lasts for a fraction of a second, for which a machine with other work may stand still."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_scenario(scenario, postgres_url):
    """A leak is found, under a name that fits, at the line that is marked; in an innocent scenario nothing is found, at the first try."""
    for _ in range(TRIES):
        found = await play(scenario, postgres_url.replace("+asyncpg", f"+{scenario.driver}"))
        if not scenario.kinds:
            assert found == [], f"false alarm: {found}"
            return
        if {finding.kind for finding in found} & set(scenario.kinds):
            break
    else:
        pytest.fail(f"missed; found {found}")
    sites = [finding.current or finding.site for finding in found if finding.kind in scenario.kinds]
    named = {(site.file, site.line) for site in sites if site is not None}
    file = inspect.getsourcefile(scenario.play)
    assert named, found
    assert named <= {(file, line) for line in scenario.lines()}, f"wrong line, not {scenario.lines()}: {found}"


async def play(scenario, url):
    """Play a scenario, and give what was found."""
    async with Stage(url, **scenario.options) as stage:
        await scenario.play(stage)
        gc.collect()
        await asyncio.sleep(0.02)
    return stage.findings.all
