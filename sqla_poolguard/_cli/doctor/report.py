"""Where an examination is shown: the one module of the doctor that prints. Results go to standard output, trouble to standard error."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sqla_poolguard._cli.doctor import formats, reference
from sqla_poolguard._cli.doctor.facts import facts
from sqla_poolguard._cli.doctor.finding import Severity
from sqla_poolguard._cli.doctor.rules import RULES
from sqla_poolguard._version import own_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from sqla_poolguard._cli.doctor.examination import Examination
    from sqla_poolguard._cli.doctor.finding import Finding

__all__ = ["Report"]

_WIDEST: Final = 110
_NAMES: Final = 9
_MARGIN: Final = 4
"""Blanks before the names and behind them."""
_UNIT: Final = re.compile(r"(?<=\d) (?=(?:ms|s|x|process|processes)\b)|(?<=\d x) (?=\d)")
_GLUE: Final = "\u00a0"
_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
_NOUNS: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


class Report:
    """Shows an examination in one of the formats."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._out = Console(highlight=False, markup=False, emoji=False)
        self._out.width = min(self._out.width, _WIDEST)
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)

    def show(self, examination: Examination, failing: Sequence[Finding]) -> None:
        """Show what came of an examination; `failing` are the findings for which the command fails."""
        if self._form == "text":
            self._text(examination)
        elif self._form == "github":
            self._write("".join(f"{line}\n" for line in formats.github(examination)))
        elif self._form == "junit":
            self._write(formats.junit(examination, failing))
        else:
            document = formats.document(examination, failing) if self._form == "json" else formats.sarif(examination)
            self._write(json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n")

    def trouble(self, sentence: str) -> None:
        """Say why it could not run."""
        if self._form == "json":
            self._write(json.dumps({"schema": formats.SCHEMA, "error": sentence}, indent=2) + "\n")
        self._err.print(f"poolguard: {sentence}", style="red", soft_wrap=not self._err.is_terminal)

    def explain(self, code: str) -> bool:
        """Say what a rule is about, or with "all" print the reference of all rules; False if there is no such rule."""
        if code.lower() == "all":
            self._write(reference.page())
            return True
        rule = RULES.get(code.upper())
        if rule is None:
            self.trouble(f"there is no rule {code}; there are {', '.join(RULES)}")
            return False
        title = Text.assemble((rule.code, _STYLES[rule.severity]), "  ", (rule.title, "bold"), f"  ({rule.severity})")
        self._print(title, "", self._grid(("looks for", rule.looks), ("why", rule.why), ("fix", rule.fix)))
        return True

    def _text(self, examination: Examination) -> None:
        heading = Text.assemble((f"poolguard doctor {own_version()}", "bold cyan"), f"  {examination.source}")
        self._print(heading, "", self._grid(*facts(examination.evidence)))
        for finding in examination.findings:
            style = _STYLES[finding.severity]
            title = Table.grid(padding=(0, 2, 0, 0))
            title.add_row(Text(f"{finding.severity.upper():<7}", style), Text(finding.code, style), Text(finding.title, "bold"))
            seen = (("where", finding.where), ("seen", finding.evidence), ("why", finding.why), ("fix", finding.fix))
            self._print("", title, self._grid(*seen))
        unseen = examination.evidence.unseen
        if unseen:
            several = len(unseen) > 1
            self._print(
                "", self._grid(*(("" if number else "not seen", what) for number, what in enumerate(unseen)), dashes=several)
            )
        self._print("", self._verdict(examination.findings))

    def _verdict(self, findings: Sequence[Finding]) -> Text:
        if not findings:
            return Text("Nothing found.", "bold green")
        counts = []
        for severity in Severity:
            count = sum(finding.severity is severity for finding in findings)
            if count:
                noun = f"{count} {_NOUNS[severity]}{'' if count == 1 else 's'}"
                counts.append((noun, _STYLES[severity]))
        parts: list[Any] = [part for count in counts for part in (", ", count)][1:]
        return Text.assemble(*parts, f".  More on one: poolguard doctor --explain {findings[0].code}")

    def _grid(self, *rows: tuple[str, str], dashes: bool = False) -> Padding:
        """Write names and what there is to say of each, below each other; a number stays with its unit."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True, min_width=_NAMES)
        grid.add_column(overflow="fold")
        first, rest = ("- ", "  ") if dashes else ("", "")
        width = max(self._out.width - _NAMES - _MARGIN, _NAMES)
        for name, value in rows:
            kept = _UNIT.sub(_GLUE, value)
            lines = textwrap.wrap(kept, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
            grid.add_row(name, "\n".join(lines).replace(_GLUE, " "))
        return Padding(grid, (0, 0, 0, 2))

    def _print(self, *parts: RenderableType) -> None:
        """Print; where it is no terminal, without the blanks with which rich fills up its lines."""
        if self._out.is_terminal:
            self._out.print(*parts, sep="\n")
            return
        with self._out.capture() as captured:
            self._out.print(*parts, sep="\n")
        self._write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def _write(self, text: str) -> None:
        encoding = self._out.encoding
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
