"""Act 2, the culprit: a route keeps its connection during a call to somebody else, and the pool runs dry."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqla_poolguard._cli.demo.load import Crowd
from sqla_poolguard._cli.demo.scene import Check, marked_line
from sqla_poolguard._cli.demo.settings import LIMIT, SHOP_TIMEOUT

if TYPE_CHECKING:
    from sqla_poolguard._cli.demo.load import Answer
    from sqla_poolguard._cli.demo.process import LogLine
    from sqla_poolguard._cli.demo.scene import MarkedLine, Scene

__all__ = ["Culprit", "play"]

_OTHERS: Final = 8
_PATIENCE: Final = 5.0
_HELD: Final = "held across an await"


@dataclass(frozen=True, slots=True)
class Culprit:
    """What the shop said when its pool was dry."""

    name: ClassVar[str] = "culprit"

    marked: MarkedLine
    """Where the connections really are taken: file and line, found in the shop's source."""
    error: str
    """What the shop logged, GuardedPool's own words."""
    warning: str
    """What GuardedPool logged before anybody waited in vain."""
    stock_error: str
    """What the stock pool says in the same place."""
    stock_statuses: tuple[int, ...]
    """What the others got on the stock pool."""
    others: tuple[Answer, ...]
    """What the others got on GuardedPool."""
    paid: int
    """Payments that went through in the end."""
    left: int
    """Connections still out afterwards."""

    @property
    def retry_after(self) -> str:
        """The header of the first refusal."""
        return self.others[0].headers.get("retry-after", "")

    @property
    def problem(self) -> dict[str, Any]:
        """The content of the first refusal; empty if it is no problem document."""
        if self.others[0].headers.get("content-type") != "application/problem+json":
            return {}
        return json.loads(self.others[0].body)  # type: ignore[no-any-return]

    @property
    def age(self) -> float | None:
        """Seconds for which the error says the culprit has held its connections; None if it does not name the culprit."""
        for row in self.error.splitlines():
            found = re.search(rf"\b{LIMIT} x .*{re.escape(self.marked.place)} .*held (\d+\.\d+) s", row)
            if found:
                return float(found[1])
        return None

    @property
    def checks(self) -> tuple[Check, ...]:
        """Who was refused knows why and for how long; who looks into the log knows who it was."""
        refused = HTTPStatus.SERVICE_UNAVAILABLE
        return (
            Check("all others got 503", all(answer.status == refused for answer in self.others)),
            Check("each with Retry-After", all(answer.headers.get("retry-after", "").isdigit() for answer in self.others)),
            Check("and a problem document", self.problem.get("status") == refused),
            Check(f"the error names the line ({self.marked.place}) and all {LIMIT} holders", self.age is not None),
            Check("and how long they have held", (self.age or 0.0) >= SHOP_TIMEOUT),
            Check("the log had named the line before", self.marked.place in self.warning),
            Check("all payments went through", self.paid == LIMIT),
            Check("all connections came back", self.left == 0),
        )

    def figures(self) -> dict[str, Any]:
        """Give what was seen."""
        return {
            "line": self.marked.place,
            "code": self.marked.code,
            "error": self.error,
            "warning": self.warning,
            "age": self.age,
            "statuses": [answer.status for answer in self.others],
            "retry_after": self.retry_after,
            "problem": self.problem,
            "stock_error": self.stock_error,
            "stock_statuses": list(self.stock_statuses),
            "paid": self.paid,
            "others": [asdict(answer) for answer in self.others[:1]],
        }


async def play(scene: Scene) -> Culprit:
    """Let everybody pay, then let others ask for their orders: on the stock pool first, for comparison."""
    scene.tell("the stock pool runs dry", 0.0)
    _, others, said = await _run_dry(scene, "shop/stock")
    stock_error = next((line.error or line.message for line in said if "limit" in (line.error or "")), "")
    scene.tell("GuardedPool runs dry", 0.5)
    payments, refused, said = await _run_dry(scene, "shop/guarded")
    left = 0 if await scene.wait_for_in_use("shop/guarded", 0, _PATIENCE) else await scene.in_use("shop/guarded")
    return Culprit(
        marked=marked_line("culprit"),
        error=next((line.message for line in said if line.logger == "shop"), ""),
        warning=next((line.message for line in said if line.logger == "sqla_poolguard" and _HELD in line.message), ""),
        stock_error=stock_error.splitlines()[0] if stock_error else "",
        stock_statuses=tuple(answer.status for answer in others),
        others=tuple(refused),
        paid=sum(answer.status == HTTPStatus.OK for answer in payments),
        left=left,
    )


async def _run_dry(scene: Scene, shop: str) -> tuple[list[Answer], list[Answer], list[LogLine]]:
    """Give what the payers got, what the others got, and what was logged until then."""
    since = len(scene.server.log)
    async with Crowd(scene.server.url, LIMIT) as payers, Crowd(scene.server.url, _OTHERS) as others, asyncio.TaskGroup() as group:
        paying = group.create_task(payers.ask("POST", f"/{shop}/orders/7/pay"))
        await scene.wait_for_payments(LIMIT, _PATIENCE)  # now every connection is held during the call
        refused = await others.ask("GET", f"/{shop}/orders")
        await scene.wait_for_log(since, lambda line: line.logger in {"shop", "uvicorn.error"}, _PATIENCE)
        said = scene.server.log[since:]
        paid = await paying
    return paid, refused, said
