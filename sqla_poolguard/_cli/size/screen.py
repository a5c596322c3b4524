"""Where `poolguard size` is shown: the one module of it that prints."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from sqla_poolguard._cli.size import paste, views
from sqla_poolguard._cli.size.document import SCHEMA, document
from sqla_poolguard._cli.size.explain import formulas
from sqla_poolguard._cli.size.quantities import shown_time
from sqla_poolguard._sizing import Verdict
from sqla_poolguard._version import own_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from sqla_poolguard._cli.size.given import Inputs
    from sqla_poolguard._plan import Plan

__all__ = ["Screen"]

_WIDEST: Final = 110


class Screen:
    """Shows a plan to a person, or as one JSON document."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._out = Console(highlight=False, markup=False, emoji=False)
        self._out.width = min(self._out.width, _WIDEST)
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._plain = not self._out.encoding.startswith("utf")

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show on a terminal that something takes a while."""
        if not self._err.is_terminal or self._err.is_dumb_terminal:
            yield
            return
        with self._err.status(what):
            yield

    def show(self, plan: Plan, inputs: Inputs, *, explain: bool, prepared: bool) -> None:
        """Show it all."""
        if self._json:
            self._out.file.write(json.dumps(document(plan, inputs, prepared=prepared), indent=2, allow_nan=False) + "\n")
            return
        title = Text(f"sqla-poolguard {own_version()}", "bold cyan") + Text(" size")
        self._print(title, _indented(views.inputs_read(plan, inputs)))
        self._part("One pool, in connections", views.figures(plan))
        late = f"Checkouts that wait longer than {shown_time(plan.target.wait)}, by pool_size"
        self._part(late, views.curve(plan, plain=self._plain))
        self._part("What it depends on", views.sensitivity(plan, plain=self._plain))
        if explain:
            self._part("Why", views.explained(formulas(plan, inputs)))
        self._print("", views.verdict(plan))
        pooler = plan.verdict is Verdict.NEEDS_POOLER
        if pooler:
            self._paste("pgbouncer.ini" + ("" if prepared else ", before 1.21"), paste.pgbouncer(plan, prepared=prepared))
        if plan.verdict is Verdict.FITS or pooler:
            self._paste("To paste" if not pooler else "and the engine", paste.engine(plan, pooler=pooler, prepared=prepared))

    def trouble(self, sentence: str) -> None:
        """Say why it could not run."""
        if self._json:
            self._out.file.write(json.dumps({"schema": SCHEMA, "error": sentence}, indent=2) + "\n")
        self._err.print(f"poolguard: {sentence}", style="red", soft_wrap=not self._err.is_terminal)

    def _part(self, title: str, *parts: RenderableType) -> None:
        self._print("", Text(title, "bold cyan"), *(_indented(part) for part in parts))

    def _paste(self, title: str, text: str) -> None:
        """Show what is to be copied: from the first column on, and never broken into lines of the screen."""
        self._print("", Text(title, "bold cyan"))
        self._out.print(text.rstrip(), soft_wrap=True)

    def _print(self, *parts: Any) -> None:
        """Print; where it is no terminal, without the blanks with which rich fills up its lines."""
        if self._out.is_terminal:
            self._out.print(*parts, sep="\n")
            return
        with self._out.capture() as captured:
            self._out.print(*parts, sep="\n")
        self._out.file.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 3))
