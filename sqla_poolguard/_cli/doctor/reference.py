"""The page on all rules in the documentation, made of the rules themselves: `poolguard doctor --explain all`."""

from __future__ import annotations

from typing import Final

from sqla_poolguard._cli.doctor.rules import RULES

__all__ = ["page"]

_HEAD: Final = """\
# Rules of the doctor

What [`poolguard doctor`](../how-to/doctor.md) looks for. This page is what `poolguard doctor --explain all` prints.

| code | severity | what is wrong |
| --- | --- | --- |
"""


def page() -> str:
    """Write it."""
    table = "".join(f"| [{rule.code}](#{rule.code.lower()}) | {rule.severity} | {rule.title} |\n" for rule in RULES.values())
    written = "".join(
        f"\n## {rule.code}\n\n**{rule.title}** ({rule.severity})\n\nLooks for: {rule.looks}\n\nWhy: {rule.why}\n\n"
        f"Fix: {rule.fix}\n"
        for rule in RULES.values()
    )
    return _HEAD + table + written.replace("__", r"\_\_")  # which would be bold
