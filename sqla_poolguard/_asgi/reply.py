"""The 503 answer: what a client is told of a pool that had no connection, and what the log is told."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqla_poolguard._asgi.tally import unused
from sqla_poolguard._otel import trace_id_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._asgi.saturation import Saturation

__all__ = ["Journal", "Reply", "journal", "public_name", "reply_to"]

_LEAST: Final = 1
_GIVEN: Final = re.compile(r"[\w-]+(#\d+)?", re.ASCII)
_log: Final = logging.getLogger("sqla_poolguard")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, ready to be sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Without the length."""
    body: bytes


def reply_to(error: Saturation) -> Reply:
    """
    Make the answer for a request that got no connection; to be called in the context of that request.

    It tells nothing of SQL, holders or addresses.
    """
    problem = error.to_problem()
    seconds = _LEAST if error.retry_after is None else max(_LEAST, math.ceil(error.retry_after))
    pool, trace_id = public_name(error.snapshot.pool), trace_id_in(copy_context())
    if pool is not None:
        problem["pool"] = pool
    problem |= {"reason": str(error.reason), "retry_after": seconds, "retry_safe": unused()}
    if trace_id is not None:
        problem["trace_id"] = trace_id
    headers = (
        ("content-type", "application/problem+json"),
        ("retry-after", str(seconds)),
        ("cache-control", "no-store"),
    )
    return Reply(error.status_code, headers, json.dumps(problem).encode())


def public_name(pool: str) -> str | None:
    """Give the name of a pool if it is a plain word, as an application chooses it; None for the address of a database."""
    return pool if _GIVEN.fullmatch(pool) else None


class Journal:
    """
    Tells the log of refusals, with verdict and holders: the answer swallows the error, and with it the runbook.

    Under overload there are thousands: of each pool the first one is told, then one a minute, with a count of the others.
    """

    every: Final = 60.0
    """Seconds between two records of one pool."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}
        """Pool to (when it was last told of, how many refusals since)."""

    def note(self, error: Saturation) -> None:
        """Note a refusal that was answered."""
        pool, now = error.snapshot.pool, self._clock()
        at, silent = self._told.get(pool, (-math.inf, 0))
        if now - at < self.every:
            self._told[pool] = at, silent + 1
            return
        self._told[pool] = now, 0
        more = f" ({silent} more since the last record)" if silent else ""
        _log.warning("answered %d%s: %s", error.status_code, more, error, extra={"poolguard": error.snapshot})


journal: Final = Journal()
"""That of the process."""
