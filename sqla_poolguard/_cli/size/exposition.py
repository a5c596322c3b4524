"""Read hold times out of metrics: from a process's own page of metrics, or from a Prometheus that has collected them."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from sqla_poolguard._cli.size.fetching import NoSuchPageError, get
from sqla_poolguard._cli.size.measured import Measured
from sqla_poolguard._cli.size.trouble import SizeError
from sqla_poolguard._hold_times import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NAME", "ask_prometheus", "is_prometheus", "scrape"]

NAME: Final = "db_client_connection_use_time_seconds"
"""`db.client.connection.use_time`, as Prometheus writes it."""
_POOL: Final = "db_client_connection_pool_name"
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_LINE: Final = re.compile(rf"""{NAME}_(bucket|sum|count)(?:\{{((?:[^"}}]|"(?:[^"\\]|\\.)*")*)\}})?\s+(\S+)""", re.ASCII)
"""Of an exemplar, which may follow, nothing is read."""
_STARTED: Final = re.compile(r"^process_start_time_seconds(?:\{[^}]*\})?\s+(\S+)", re.ASCII | re.MULTILINE)
_FEWEST: Final = 30
_LOOKS: Final = 20
"""So many that of two processes which answer by turns one is seen after the other."""


@dataclass(slots=True)
class Totals:
    """A histogram as Prometheus keeps it: cumulative, since the process began."""

    buckets: dict[float, float] = field(default_factory=dict)
    """Of each upper end, how many were no longer; infinity among them."""
    total: float = 0.0
    """Seconds."""

    def since(self, before: Totals) -> Totals:
        """Give what was added."""
        added = {end: count - before.buckets.get(end, 0.0) for end, count in self.buckets.items()}
        return Totals(added, self.total - before.total)

    @property
    def count(self) -> float:
        """How many there were."""
        return self.buckets.get(math.inf, 0.0)

    def histogram(self) -> Histogram:
        """Make one of it."""
        ends = sorted(self.buckets)
        below = [0.0, *(self.buckets[end] for end in ends)]
        counts = tuple(max(upper - lower, 0.0) for lower, upper in pairwise(below))
        return Histogram(tuple(ends[:-1]), counts, self.total)


def scrape(read: Callable[[], str], first: str, seconds: float, pool: str | None, source: str) -> Measured:
    """
    Read a process's metrics again and again, and take what was added between first and last.

    Raises:
        SizeError: it was too little, there are several pools, or several processes answer.
    """
    began, pages = time.monotonic(), [first]
    before = _totals(first, pool, source)
    last = before
    for _ in range(_LOOKS):
        time.sleep(seconds / _LOOKS)
        pages.append(read())
        lasted, after = time.monotonic() - began, _totals(pages[-1], pool, source)
        if min(after.since(last).buckets.values(), default=0) < 0 or len({_began(page) for page in pages}) > 1:
            msg = f"{source}: the process was started anew while it was watched, or several answer by turns; ask one of them by its own address"
            raise SizeError(msg)
        last = after
    added = last.since(before)
    if added.count < _FEWEST:
        msg = f"{source}: {max(added.count, 0):g} checkouts in {lasted:.1f} s are too few to tell; watch it under load, or for longer (--watch 60s)"
        raise SizeError(msg)
    note = f"{added.count:,.0f} checkouts in {lasted:.1f} s of one process"
    return Measured(source=source, rate=added.count / lasted, of_one=True, holds=added.histogram(), notes=(note,))


def _began(text: str) -> str | None:
    """Give what a page says of when its process was started."""
    found = _STARTED.search(text)
    return found[1] if found else None


def ask_prometheus(base: str, pool: str | None, window: str, source: str) -> Measured:
    """
    Ask a Prometheus: the rate of the busiest five minutes of the window, over all processes, and the hold times of all of it.

    Raises:
        SizeError: it is none, or knows nothing.
    """
    names = {str(row["metric"].get(_POOL, "")) for row in _query(base, f"count by ({_POOL}) ({NAME}_count)", source)}
    chosen = _one(names, pool, source)
    only = f"{{{_POOL}={json.dumps(chosen)}}}"
    busiest = _query(base, f"max_over_time(sum(rate({NAME}_count{only}[5m]))[{window}:1m])", source)
    buckets = _query(base, f"sum by (le) (increase({NAME}_bucket{only}[{window}]))", source)
    total = _query(base, f"sum(increase({NAME}_sum{only}[{window}]))", source)
    if not busiest or not buckets or not total:
        msg = f"{source}: nothing was collected of pool {chosen!r} in the last {window}"
        raise SizeError(msg)
    totals = Totals({float(row["metric"]["le"]): float(row["value"][1]) for row in buckets}, float(total[0]["value"][1]))
    rate = float(busiest[0]["value"][1])
    if not (rate > 0 and totals.total > 0):
        msg = f"{source}: pool {chosen!r} was not used in the last {window}"
        raise SizeError(msg)
    note = f"{totals.count:,.0f} checkouts in the last {window}; the rate is that of the busiest five minutes, of all processes"
    return Measured(source=source, rate=rate, holds=totals.histogram(), notes=(note,))


def is_prometheus(base: str) -> bool:
    """Tell whether a Prometheus answers there."""
    try:
        _query(base, "vector(1)", base)
    except SizeError:
        return False
    return True


def _query(base: str, query: str, source: str) -> list[dict[str, Any]]:
    try:
        text = get(f"{base.rstrip('/')}/api/v1/query?{urlencode({'query': query})}")
        result: list[dict[str, Any]] = json.loads(text)["data"]["result"]
    except (NoSuchPageError, ValueError, KeyError, TypeError) as error:
        msg = f"{source} is neither a debug page, nor metrics with {NAME}, nor a Prometheus"
        raise SizeError(msg) from error
    return result


def _totals(text: str, pool: str | None, source: str) -> Totals:
    """Add up what a page of metrics tells of one pool."""
    found: dict[str, Totals] = {}
    for line in text.splitlines():
        if not (matched := _LINE.match(line)):
            continue
        kind, labels, value = matched[1], dict(_LABEL.findall(matched[2] or "")), float(matched[3])
        own = found.setdefault(labels.get(_POOL, ""), Totals())
        if kind == "bucket":
            end = float(labels["le"])
            own.buckets[end] = own.buckets.get(end, 0.0) + value
        elif kind == "sum":
            own.total += value
    return found[_one(set(found), pool, source)]


def _one(names: set[str], wanted: str | None, source: str) -> str:
    fitting = [name for name in names if wanted in {None, name}]
    if len(fitting) == 1:
        return fitting[0]
    if not names:
        msg = f"{source} has no metric {NAME}"
    else:
        listed = ", ".join(repr(name) for name in sorted(names))
        msg = f"{source} knows {f'no pool {wanted!r}' if wanted else 'several pools'}; choose one with --pool: {listed}"
    raise SizeError(msg)
