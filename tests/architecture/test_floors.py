"""The floors of the house: a module imports only from lower floors, and the rules know nothing of the world."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sqla_poolguard"

WORDS, RULES, EFFECTS, SHELL, DOORS = range(5)
FLOORS = {
    "_arrival": WORDS,
    "_facts": WORDS,
    "_version": WORDS,
    "_finding": WORDS,
    "_guard": WORDS,
    "_observer": WORDS,
    "_overload": WORDS,
    "errors": WORDS,
    "_admission": RULES,
    "_bounds": RULES,
    "_breaker": RULES,
    "_budget": RULES,
    "_bursts": RULES,
    "_demand": RULES,
    "_hold_times": RULES,
    "_erlang": RULES,
    "_fit": RULES,
    "_plan": RULES,
    "_queueing": RULES,
    "_sizing": RULES,
    "_connects": RULES,
    "_course": RULES,
    "_durations": RULES,
    "_gaps": RULES,
    "_ledger": RULES,
    "_levels": RULES,
    "_outage": RULES,
    "_samples": RULES,
    "_slots": RULES,
    "_startline": RULES,
    "_totals": RULES,
    "_waiters": RULES,
    "_retry": RULES,
    "_scope": RULES,
    "_findings": RULES,
    "_verdict": RULES,
    "_waitgraph": RULES,
    "_awaits": EFFECTS,
    "_callsite": EFFECTS,
    "_census": EFFECTS,
    "_deadline": EFFECTS,
    "_figures": EFFECTS,
    "_holds": EFFECTS,
    "_joins": EFFECTS,
    "_keepers": EFFECTS,
    "_logs": EFFECTS,
    "_monitored": EFFECTS,
    "_naming": EFFECTS,
    "_observers": EFFECTS,
    "_otel": EFFECTS,
    "_otel._attributes": EFFECTS,
    "_otel._code": EFFECTS,
    "_otel._instruments": EFFECTS,
    "_otel._measured": EFFECTS,
    "_otel._metrics": EFFECTS,
    "_otel._names": EFFECTS,
    "_otel._neighbours": EFFECTS,
    "_otel._pace": EFFECTS,
    "_otel._providers": EFFECTS,
    "_otel._quota": EFFECTS,
    "_otel._spans": EFFECTS,
    "_otel._spot": EFFECTS,
    "_otel._total": EFFECTS,
    "_otel._unseen": EFFECTS,
    "_ping": EFFECTS,
    "_plain": EFFECTS,
    "_private": EFFECTS,
    "_probe": EFFECTS,
    "_quiet": EFFECTS,
    "_reach": EFFECTS,
    "_reporter": EFFECTS,
    "_runtime": EFFECTS,
    "_sight": EFFECTS,
    "_stillness": EFFECTS,
    "_streak": EFFECTS,
    "_tracing": WORDS,
    "_urgency": EFFECTS,
    "_books": SHELL,
    "_conflicts": SHELL,
    "_connecting": SHELL,
    "_fastlane": SHELL,
    "_fork": SHELL,
    "_gate": SHELL,
    "_handover": SHELL,
    "_inspector": SHELL,
    "_judge": SHELL,
    "_pool": SHELL,
    "_reclaim": SHELL,
    "_resizing": SHELL,
    "_record": SHELL,
    "_sampler": SHELL,
    "_slow": SHELL,
    "_startup": SHELL,
    "_supply": SHELL,
    "_sweeper": SHELL,
    "_ticker": SHELL,
    "_trail": SHELL,
    "_watch": SHELL,
    "": DOORS,
    "__main__": DOORS,
    "_asgi": DOORS,
    "_asgi.debug": DOORS,
    "_asgi.handlers": DOORS,
    "_asgi.middleware": DOORS,
    "_asgi.page": DOORS,
    "_asgi.probes": DOORS,
    "_asgi.reply": DOORS,
    "_asgi.saturation": DOORS,
    "_asgi.tally": DOORS,
    "_asgi.words": DOORS,
    "_monitor": DOORS,
    "_monitor.alarms": DOORS,
    "_monitor.facts": DOORS,
    "_monitor.join": DOORS,
    "_monitor.server": DOORS,
    "_monitor.settings": DOORS,
    "_monitor.standstill": DOORS,
    "_monitor.task": DOORS,
    "_release": DOORS,
    "_snapshot": DOORS,
    "_testing": DOORS,
    "_testing.account": DOORS,
    "_testing.blocks": DOORS,
    "_testing.calls": DOORS,
    "_testing.case": DOORS,
    "_testing.clock": DOORS,
    "_testing.cursors": DOORS,
    "_testing.driver": DOORS,
    "_testing.ending": DOORS,
    "_testing.everywhere": DOORS,
    "_testing.exhaustion": DOORS,
    "_testing.faults": DOORS,
    "_testing.following": DOORS,
    "_testing.guarding": DOORS,
    "_testing.forbidding": DOORS,
    "_testing.importing": DOORS,
    "_testing.items": DOORS,
    "_testing.judgement": DOORS,
    "_testing.keeping": DOORS,
    "_testing.late": DOORS,
    "_testing.left_over": DOORS,
    "_testing.mains": DOORS,
    "_testing.policy": DOORS,
    "_testing.proctor": DOORS,
    "_testing.replacing": DOORS,
    "_testing.stays": DOORS,
    "_testing.tally": DOORS,
    "_testing.tasks": DOORS,
    "_testing.threads": DOORS,
    "_testing.uses": DOORS,
    "_testing.watching": DOORS,
    "_testing.wide": DOORS,
    "_testing.witness": DOORS,
    "_prometheus": DOORS,
    "_prometheus.account": DOORS,
    "_prometheus.accounts": DOORS,
    "_prometheus.collector": DOORS,
    "_prometheus.families": DOORS,
    "_prometheus.files": DOORS,
    "asgi": DOORS,
    "monitor": DOORS,
    "plugin": DOORS,
    "prometheus": DOORS,
    "pytest_plugin": DOORS,
    "testing": DOORS,
}
"""File by file; a new one is put on its floor by hand. What is under `_cli` is doors."""

OUTSIDE = {"sqlalchemy", "asyncio", "time", "logging"}
"""What the rules must not know, at run time."""

MOST_LINES = 300
LONGER = {
    "_cli.embedded": 310,  # one file that its tests can copy to where an ordinary user may read it
}
"""Files that may be longer, with a reason each."""


def files():
    """Give every module of the package, by its name within it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix("__init__").removesuffix("."), path


MODULES = dict(files())


def floor_of(name):
    """Give the floor of a module; None if it is on none."""
    return DOORS if name.split(".")[0] == "_cli" else FLOORS.get(name)


def imports(path):
    """Give (module, line, whether only for type checkers) for each import in a file, wherever in it."""
    for_types = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for_types.update(id(inner) for part in node.body for inner in ast.walk(part))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in for_types
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            yield node.module, node.lineno, id(node) in for_types
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, id(node) in for_types


def test_every_file_is_on_a_floor():
    """A new file is put on a floor by hand, and a floor lists no file that is gone."""
    assert [name for name in MODULES if floor_of(name) is None] == []
    assert [name for name in FLOORS if name not in MODULES] == []


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    """No module imports, at run time, from a floor above its own."""
    for imported, line, for_types in imports(MODULES[name]):
        inner = imported.removeprefix("sqla_poolguard").removeprefix(".")
        if not imported.startswith("sqla_poolguard") or inner not in MODULES or for_types or inner == "":
            continue
        own, other = floor_of(name), floor_of(inner)
        assert own is not None, f"{name} is on no floor"
        assert other is not None, f"{inner} is on no floor"
        assert other <= own, f"{name} (floor {own}):{line} imports {inner} (floor {other})"


@pytest.mark.parametrize("name", [name for name, floor in FLOORS.items() if floor <= RULES])
def test_rules_and_words_know_nothing_of_the_world(name):
    """No SQLAlchemy, loop, clock or log below the effects; an error may be one of SQLAlchemy's."""
    allowed = {"sqlalchemy.exc"} if name == "errors" else set()
    for imported, line, for_types in imports(MODULES[name]):
        if not for_types and imported.split(".")[0] in OUTSIDE:
            assert imported in allowed, f"{name}:{line} imports {imported}"


def test_opentelemetry_stays_in_its_room():
    """Only `_otel` knows OpenTelemetry; the command line may set up its SDK, and an option may be of one of its types."""
    for name, path in MODULES.items():
        if name.split(".")[0] not in {"_otel", "_cli"}:
            knows = [
                f"{name}:{line}"
                for imported, line, for_types in imports(path)
                if imported.split(".")[0] == "opentelemetry" and not (for_types and name == "_guard")
            ]
            assert knows == []


def test_importing_the_package_imports_no_sqlalchemy():
    """The package's own file imports nothing of ours when it is imported: names are looked up when they are used."""
    at_once = [node for node in ast.parse(MODULES[""].read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in at_once if "sqla_poolguard" in ast.unparse(node)] == []


@pytest.mark.parametrize("name", MODULES)
def test_one_noun_one_file(name):
    """No file is longer than three hundred lines without a reason."""
    assert len(MODULES[name].read_text().splitlines()) <= LONGER.get(name, MOST_LINES)


@pytest.mark.parametrize("name", MODULES)
def test_every_file_says_what_it_is_for(name):
    """The first line of every file is a docstring."""
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))
