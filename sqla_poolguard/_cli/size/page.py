"""Read the debug page of a running process, again and again for a while: rate and hold follow from what changes."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard._cli.size.measured import Measured
from sqla_poolguard._cli.size.trouble import SizeError
from sqla_poolguard._hold_times import Exponential

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["measure", "moment", "pool_of", "watch"]

_PAUSE: Final = 0.1
_FEWEST: Final = 30
"""Checkouts below which a rate is chance."""
_LOOKS: Final = 10
"""Looks below which the connections that were out are chance."""
_ELSEWHERE: Final = {"awaiting", "nested", "orphaned"}
"""States of a holder (`HolderState`) in which it could have given its connection back."""


def watch(read: Callable[[], dict[str, Any]], first: dict[str, Any], seconds: float) -> list[tuple[float, dict[str, Any]]]:
    """Read a page over and over; give (second, page) of each time."""
    seen = [(time.monotonic(), first)]
    while seen[-1][0] < seen[0][0] + seconds:
        time.sleep(_PAUSE)
        page = read()
        seen.append((time.monotonic(), page))
    return seen


def measure(pages: Sequence[tuple[float, dict[str, Any]]], name: str | None, source: str) -> Measured:
    """
    Make what can be known of pages: the rate of what was granted, and by Little's law the hold: connections out / rate.

    Likewise the part of a hold that is spent outside the database: connections whose holder does something else / rate.

    Args:
        pages: (second, page), in order of time.
        name: of the pool; None if there is one.
        source: of the pages, for a reader.

    Raises:
        SizeError: they do not tell enough.
    """
    pools = [(at, pool_of(page, name, source)) for at, page in pages]
    (began, first), (ended, last) = pools[0], pools[-1]
    granted, seconds = last["granted"] - first["granted"], ended - began
    if not _is_one_process(pages, [pool for _, pool in pools]):
        msg = f"{source}: the process was started anew while it was watched, or several answer by turns; ask one of them by its own address"
        raise SizeError(msg)
    if granted < _FEWEST or seconds <= 0:
        msg = f"{source}: {granted} checkouts in {seconds:.1f} s are too few to tell; watch it under load, or for longer (--watch 60s)"
        raise SizeError(msg)
    looks = len(pools)
    out = sum(pool["used"] for _, pool in pools) / looks
    elsewhere = sum(holder["state"] in _ELSEWHERE for _, pool in pools for holder in pool["holders"]) / looks
    rate = granted / seconds
    if looks < _LOOKS or not out:
        why = f"{looks} looks are too few" if looks < _LOOKS else f"at none of {looks} looks a connection was out"
        lacks = f"{source}: they tell a rate ({rate:.3g} checkouts/s), and no hold time: {why}; give --hold, or {_LOOKS} looks or more"
        return Measured(
            source=source, rate=rate, of_one=True, lacks=lacks, notes=(f"{granted} checkouts in {seconds:.1f} s of one process",)
        )
    hold = out / rate
    note = f"{granted} checkouts in {seconds:.1f} s of one process; on average of {looks} looks {out:.2f} connections were out, "
    note += f"{elsewhere:.2f} of them while their holders awaited something else"
    return Measured(
        source=source,
        rate=rate,
        of_one=True,
        holds=Exponential(hold),
        outside=min(elsewhere / rate, 0.99 * hold),
        notes=(note,),
    )


def _is_one_process(pages: Sequence[tuple[float, dict[str, Any]]], pools: Sequence[dict[str, Any]]) -> bool:
    """Tell whether all pages can be of one process: it keeps its id, and what it counts only grows."""
    ids = {(page.get("pid"), page.get("since")) for _, page in pages}
    grows = all(before["granted"] <= after["granted"] for before, after in pairwise(pools))
    return grows and len(ids) <= 1


def moment(page: dict[str, Any]) -> float:
    """Give when a page was made, as seconds since 1970."""
    return datetime.fromisoformat(page["at"]).timestamp()


def pool_of(page: dict[str, Any], name: str | None, source: str) -> dict[str, Any]:
    """
    Choose the pool of a page.

    Raises:
        SizeError: there is none of that name, or without a name several.
    """
    pools: list[dict[str, Any]] = [pool for pool in page["pools"] if name in {None, pool["pool"]}]
    if len(pools) == 1:
        return pools[0]
    names = ", ".join(repr(pool["pool"]) for pool in page["pools"])
    msg = f"{source} shows {f'no pool {name!r}' if name else 'several pools'}; choose one with --pool: {names}"
    raise SizeError(msg)
