"""Act 3, the leak: a session that nobody closes, and who is named for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqla_poolguard._cli.demo.load import Crowd
from sqla_poolguard._cli.demo.scene import Check, marked_line

if TYPE_CHECKING:
    from sqla_poolguard._cli.demo.process import LogLine
    from sqla_poolguard._cli.demo.scene import MarkedLine, Scene

__all__ = ["Leak", "play"]

_SHOP: Final = "shop/guarded"
_LEAKS: Final = 3
_PATIENCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Leak:
    """What was logged of the leaks."""

    name: ClassVar[str] = "leak"

    marked: MarkedLine
    """Where the connections really were taken: file and line, found in the shop's source."""
    requests: int
    """Requests to the route that leaks; each was answered with 200."""
    answered: int
    """Requests that got status 200: nobody notices anything."""
    messages: tuple[str, ...]
    """GuardedPool's log lines."""
    stock_message: str
    """SQLAlchemy's own log line of the same."""
    left: int
    """Connections still out afterwards."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every leak was named, and no slot of the pool was lost."""
        named = [message for message in self.messages if "leaked" in message and f"{self.marked.place} " in message]
        return (
            Check("the route answered as if nothing were wrong", self.answered == self.requests),
            Check(f"each leak was named with its line ({self.marked.place})", len(named) == len(self.messages) == self.requests),
            Check("the pool has its slots back", self.left == 0),
        )

    def figures(self) -> dict[str, Any]:
        """Give what was seen."""
        values = asdict(self)
        marked = values.pop("marked")
        return {"line": marked["place"], "code": marked["code"], **values}


async def play(scene: Scene) -> Leak:
    """Ask for the revenue a few times, then let the garbage collector run."""
    since = len(scene.server.log)
    scene.tell("leaking", 0.0)
    async with Crowd(scene.server.url, _LEAKS) as crowd:
        answers = await crowd.ask("GET", f"/{_SHOP}/revenue")
    scene.tell("collecting garbage", 0.5)
    (await scene.control.post("/control/collect")).raise_for_status()
    leaks = await scene.wait_for_log(since, _is_ours, _PATIENCE, _LEAKS)
    left = 0 if await scene.wait_for_in_use(_SHOP, 0, _PATIENCE) else await scene.in_use(_SHOP)
    stock = [line.message for line in scene.server.log[since:] if "garbage collector" in line.message]
    return Leak(
        marked=marked_line("leak"),
        requests=_LEAKS,
        answered=sum(answer.status == HTTPStatus.OK for answer in answers),
        messages=tuple(line.message for line in leaks),
        stock_message=stock[0] if stock else "",
        left=left,
    )


def _is_ours(line: LogLine) -> bool:
    return line.logger == "sqla_poolguard" and line.level == "ERROR"
