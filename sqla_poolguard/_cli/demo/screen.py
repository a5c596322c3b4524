"""Where the demo is shown: the one module that prints. Results go to standard output, progress to a terminal's standard error."""

from __future__ import annotations

import json
import platform
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import sqlalchemy
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sqla_poolguard._cli.charts import bar
from sqla_poolguard._cli.demo.views import TITLES, moral, view
from sqla_poolguard._version import own_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from sqla_poolguard._cli.demo.collector import Collector
    from sqla_poolguard._cli.demo.database import Database
    from sqla_poolguard._cli.demo.run import Outcome
    from sqla_poolguard._cli.demo.scene import Act

__all__ = ["Screen"]

_WIDEST: Final = 110
_REFRESHES: Final = 6
_PROGRESS_WIDTH: Final = 24
_JAEGER_PORT: Final = 16686


class Screen:
    """Shows the demo as it goes, or with `as_json` one JSON document at its end."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._out = Console(highlight=False, markup=False, emoji=False)
        self._out.width = min(self._out.width, _WIDEST)
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._plain = not self._out.encoding.startswith("utf")
        self._opening: dict[str, Any] = {}
        self._shown = 0

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, float], None]]:
        """Show on a terminal what is going on; gives the function to say so: what, and how much is done (0 to 1)."""
        if not self._err.is_terminal or self._err.is_dumb_terminal:
            yield lambda _what, _done: None
            return
        what, done = "", 0.0

        def tell(now: str, fraction: float) -> None:
            nonlocal what, done
            what, done = now, fraction

        def draw() -> Text:
            drawn = bar(done, 1.0, _PROGRESS_WIDTH, plain=not self._err.encoding.startswith("utf"))
            return Text.assemble("   ", (f"{drawn:<{_PROGRESS_WIDTH}}", "cyan"), " ", what, no_wrap=True, overflow="ellipsis")

        with Live(get_renderable=draw, console=self._err, transient=True, refresh_per_second=_REFRESHES):
            yield tell

    def opening(self, database: Database, collector: Collector | None) -> None:
        """Say what it runs on."""
        self._opening = {
            "poolguard": own_version(),
            "python": platform.python_version(),
            "sqlalchemy": sqlalchemy.__version__,
            "postgresql": database.version,
        }
        if self._json:
            return
        self._show(Text(f"sqla-poolguard {self._opening['poolguard']}", "bold cyan") + Text(" demo"))
        place = Table.grid(padding=(0, 2, 0, 0))
        place.add_row("PostgreSQL", f"{database.version} ({database.shown})")
        place.add_row(
            "application", f"FastAPI on uvicorn, SQLAlchemy {self._opening['sqlalchemy']}, Python {self._opening['python']}"
        )
        if collector is not None:
            metrics = "spans and metrics" if collector.metrics else "spans (it takes no metrics, as Jaeger)"
            place.add_row("telemetry", f"{metrics} to {collector.url}")
        self._show(_indented(place))

    def act(self, act: Act) -> None:
        """Show an act that was played."""
        if self._json:
            return
        self._shown += 1
        self._show("", Text(f"{self._shown}  {TITLES[act.name]}", "bold cyan"), _indented(view(act, plain=self._plain)), "")
        failed = [check.claim for check in act.checks if not check.passed]
        for claim in failed:
            self._show(_indented(Text(f"{'x' if self._plain else '✗'} not shown: {claim}", "bold red")))
        if not failed:
            lines = Table.grid(padding=(0, 1, 0, 0))
            lines.add_row(Text("=>" if self._plain else "✓", "bold green"), Text(moral(act), "green"))
            self._show(_indented(lines))

    def closing(self, outcome: Outcome) -> None:
        """Say how it went."""
        if self._json:
            self._print_json(_document(outcome, self._opening))
            return
        self._show("")
        if outcome.sent is not None:
            names = f" and {len(outcome.sent['metrics'])} metrics" if outcome.sent["takes_metrics"] else ""
            self._show(f"Sent {outcome.sent['spans']} spans{names} to {outcome.sent['url']}, service poolguard-demo.")
            if outcome.sent["look_at"] is not None:
                self._show(*_pointer(outcome.sent["look_at"], outcome.sent["url"]), whole=True)
        verdict = ("Every act showed what it should", "bold green") if outcome.passed else ("Not all was shown", "bold red")
        self._show(Text.assemble(verdict, f", in {outcome.seconds:.0f} s."))
        if outcome.passed:
            self._show(Text.assemble("To have it:  ", ("create_async_engine(url, poolclass=GuardedPool)", "bold")))

    def trouble(self, sentence: str) -> None:
        """Say why it could not run."""
        if self._json:
            self._print_json({"passed": False, "error": sentence})
        self._err.print(f"poolguard: {sentence}", style="red", soft_wrap=not self._err.is_terminal)

    def _show(self, *parts: RenderableType, whole: bool = False) -> None:
        """
        Print; where it is no terminal, without the blanks with which rich fills up its lines.

        Lines that are to be `whole` are not wrapped: addresses are there to be copied.
        """
        if self._out.is_terminal:
            self._out.print(*parts, sep="\n", soft_wrap=whole)
            return
        with self._out.capture() as captured:
            self._out.print(*parts, sep="\n", soft_wrap=whole)
        self._out.file.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
        self._out.file.flush()

    def _print_json(self, document: dict[str, Any]) -> None:
        self._out.file.write(json.dumps(document, indent=2, ensure_ascii=True) + "\n")


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 3))


def _pointer(clue: dict[str, Any], collector: str) -> list[str]:
    """Say which two traces to look at."""
    host = urlsplit(collector).hostname or ""
    jaeger = f"http://{f'[{host}]' if ':' in host else host}:{_JAEGER_PORT}/trace/"
    return [
        f"{clue['waiter']} waited {clue['seconds']:.2f} s ({clue['outcome']}), see its span {clue['span']!r}:",
        f"   {jaeger}{clue['waited']}",
        f"{clue['holder']} held what it waited for, taken at",
        f"   {clue['site']}:",
        f"   {jaeger}{clue['held']}",
        f"   (Jaeger's usual port is {_JAEGER_PORT}; elsewhere look for the trace's id.)",
    ]


def _document(outcome: Outcome, versions: dict[str, Any]) -> dict[str, Any]:
    return {
        "passed": outcome.passed,
        "seconds": round(outcome.seconds, 2),
        "versions": versions,
        "telemetry": outcome.sent,
        "acts": [
            {
                "name": act.name,
                "passed": all(check.passed for check in act.checks),
                "checks": [{"claim": check.claim, "passed": check.passed} for check in act.checks],
                "figures": act.figures(),
            }
            for act in outcome.acts
        ],
    }
