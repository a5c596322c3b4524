"""An examination for machines: our own JSON, GitHub's annotations, SARIF 2.1.0 and JUnit's XML. It prints nothing."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from sqla_poolguard._cli.doctor.finding import Severity
from sqla_poolguard._cli.doctor.rules import RULES
from sqla_poolguard._version import own_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqla_poolguard._cli.doctor.examination import Examination
    from sqla_poolguard._cli.doctor.finding import Finding

__all__ = ["SCHEMA", "document", "github", "junit", "sarif"]

SCHEMA: Final = 1
"""Version of our JSON: names are added without a new one, never taken away or changed."""
_SARIF: Final = "2.1.0"
_LEVELS: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_ANNOTATIONS: Final = {**_LEVELS, Severity.INFO: "notice"}
_PLACE: Final = re.compile(r"(?P<file>.+\.py):(?P<line>\d+)")
_NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(examination: Examination, failing: Sequence[Finding]) -> dict[str, Any]:
    """Give our own JSON."""
    evidence = examination.evidence
    server, limits = evidence.server, evidence.server.limits if evidence.server else None
    return {
        "schema": SCHEMA,
        "poolguard": own_version(),
        "target": examination.source,
        "failed": bool(failing),
        "findings": [{**_plain(finding), "link": finding.link} for finding in examination.findings],
        "engines": [_plain(settings, "server_settings") for settings in evidence.settings],
        "server": None
        if server is None
        else {**_plain(server, "limits"), "connected": server.connected, "usable": limits.room.slots if limits else None},
        "pooler": _plain(evidence.pooler) if evidence.pooler else None,
        "cost": {**_plain(evidence.cost, "phases"), "phases": dict(evidence.cost.phases)} if evidence.cost else None,
        "trouble": _plain(evidence.trouble) if evidence.trouble else None,
        "apps": [_plain(app) for app in evidence.apps],
        "unseen": list(evidence.unseen),
    }


def _plain(value: Any, *without: str) -> dict[str, Any]:
    """Make of one of our values what JSON knows."""
    return {name: _json(part) for name, part in asdict(value).items() if name not in without}


def _json(part: Any) -> Any:
    if isinstance(part, dict):
        return {str(name): _json(inner) for name, inner in part.items()}
    if isinstance(part, (frozenset, set)):
        return sorted(part)
    if isinstance(part, (list, tuple)):
        return [_json(inner) for inner in part]
    if isinstance(part, float) and not math.isfinite(part):  # no end, which JSON has no word for
        return None
    return part


def github(examination: Examination) -> Iterator[str]:
    """Give the annotations of a GitHub workflow, a line each."""
    for finding in examination.findings:
        file, line = _place(finding, examination)
        where = {"file": file, "line": line} if file else {}
        properties = {**where, "title": f"{finding.code} {finding.title}"}
        written = ",".join(f"{name}={_escaped(str(value), ':,')}" for name, value in properties.items() if value is not None)
        yield f"::{_ANNOTATIONS[finding.severity]} {written}::{_escaped(_message(finding))}"


def _escaped(text: str, more: str = "") -> str:
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _message(finding: Finding) -> str:
    return f"{finding.where}: {finding.evidence}\n{finding.why}\nFix: {finding.fix}"


def _place(finding: Finding, examination: Examination) -> tuple[str | None, int | None]:
    """Give file and line: the finding's own, else those of the module that was asked about; an address has none."""
    own = _PLACE.fullmatch(finding.where)
    if own:
        return own["file"].replace("\\", "/"), int(own["line"])
    return examination.file, 1 if examination.file else None


def sarif(examination: Examination) -> dict[str, Any]:
    """Give a log of SARIF 2.1.0, as code scanning takes it."""
    codes = list(RULES)
    rules = [
        {
            "id": rule.code,
            "name": f"Poolguard{rule.code}",
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.why},
            "help": {"text": f"{rule.looks}\n\n{rule.why}\n\nFix: {rule.fix}"},
            "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        }
        for rule in RULES.values()
    ]
    results = []
    for finding in examination.findings:
        location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": finding.where}]}
        file, line = _place(finding, examination)
        if file:
            location["physicalLocation"] = {"artifactLocation": {"uri": file}, "region": {"startLine": line}}
        results.append(
            {
                "ruleId": finding.code,
                "ruleIndex": codes.index(finding.code),
                "level": _LEVELS[finding.severity],
                "message": {"text": _message(finding)},
                "locations": [location],
            }
        )
    driver = {"name": "poolguard", "semanticVersion": own_version(), "rules": rules}
    return {"version": _SARIF, "runs": [{"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}]}


def junit(examination: Examination, failing: Sequence[Finding]) -> str:
    """Give JUnit's XML: a test case for each rule, which fails if one of its findings does. The rest is in outputs: other findings, what was not seen."""
    suite = ET.Element("testsuite", name="poolguard doctor", errors="0", skipped="0")
    failed = 0
    for rule in RULES.values():
        case = ET.SubElement(suite, "testcase", classname=f"poolguard.{rule.code}", name=rule.title)
        mine = [finding for finding in examination.findings if finding.code == rule.code]
        bad = [finding for finding in mine if finding in failing]
        if bad:
            failed += 1
            failure = ET.SubElement(case, "failure", type=bad[0].severity.value, message=_clean(bad[0].evidence))
            failure.text = _clean("\n\n".join(map(_message, bad)))
        rest = [finding for finding in mine if finding not in failing]
        if rest:
            ET.SubElement(case, "system-out").text = _clean("\n\n".join(map(_message, rest)))
    if unseen := examination.evidence.unseen:
        ET.SubElement(suite, "system-out").text = _clean("\n".join(("Not seen:", *unseen)))
    suite.set("tests", str(len(RULES)))
    suite.set("failures", str(failed))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True).replace("encoding='utf-8'", 'encoding="utf-8"') + "\n"


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
