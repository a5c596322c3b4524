"""What an act is given, and what every act gives back."""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from sqla_poolguard._cli.demo import app as shop
from sqla_poolguard._facts import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from sqla_poolguard._cli.demo.payments import Payments
    from sqla_poolguard._cli.demo.process import LogLine, ServerProcess

__all__ = ["Act", "Check", "MarkedLine", "Scene", "marked_line"]

_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Check:
    """Something an act had to show."""

    claim: str
    """What, in a few words."""
    passed: bool
    """Whether it did."""


class Act(Protocol):
    """The outcome of an act."""

    name: ClassVar[str]

    @property
    def checks(self) -> tuple[Check, ...]:
        """All that it had to show."""

    def figures(self) -> dict[str, Any]:
        """What was measured, for JSON."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where an act plays: the server process, the payment provider, and a client that looks behind the scene."""

    server: ServerProcess
    payments: Payments
    control: httpx.AsyncClient
    quick: bool
    """Less load, for tests."""
    tell: Callable[[str, float], None]
    """Show progress: what is going on, and how much of the act is done (0 to 1)."""

    async def watch(self, shop: str) -> None:
        """Begin to watch a shop."""
        (await self.control.post(f"/control/watch/{shop}")).raise_for_status()

    async def report(self, shop: str) -> dict[str, Any]:
        """End the watch, close the shop's connections, and tell what was seen."""
        return (await self.control.post(f"/control/report/{shop}")).raise_for_status().json()  # type: ignore[no-any-return]

    async def in_use(self, shop: str) -> int:
        """Tell how many connections of a shop are out."""
        return int((await self.control.get(f"/control/in-use/{shop}")).raise_for_status().json()["in_use"])

    async def wait_for_in_use(self, shop: str, count: int, seconds: float) -> bool:
        """Wait until so many connections of a shop are out."""
        end = time.monotonic() + seconds
        while await self.in_use(shop) != count:
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def wait_for_payments(self, count: int, seconds: float) -> None:
        """Wait until so many requests wait for the payment provider."""
        end = time.monotonic() + seconds
        while self.payments.waiting < count:
            if time.monotonic() > end:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def wait_for_log(self, since: int, wanted: Callable[[LogLine], bool], seconds: float, count: int = 1) -> list[LogLine]:
        """Wait for log lines; gives what there is when the time is up."""
        end = time.monotonic() + seconds
        while True:
            found = [line for line in self.server.log[since:] if wanted(line)]
            if len(found) >= count or time.monotonic() > end:
                return found
            await asyncio.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class MarkedLine:
    """A line of the shop's source."""

    place: str
    """As an error would name it: `app.py:12`."""
    code: str
    """What stands there, without the comment."""


def marked_line(mark: str) -> MarkedLine:
    """Find the line of the shop that has a comment beginning with a mark."""
    lines, _ = inspect.findsource(shop)
    ((number, line),) = ((number, line) for number, line in enumerate(lines, 1) if f"# {mark}:" in line)
    return MarkedLine(f"{shorten(shop.__file__)}:{number}", line.partition("#")[0].strip())
