"""What is shown of pools: holders that do the same at the same line are one row, and what is wrong is known."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqla_poolguard._cli.top.source import Process

__all__ = [
    "Group",
    "Monitors",
    "Slots",
    "holders",
    "is_wrong",
    "monitors",
    "place",
    "sessions",
    "slots_of",
    "waiters",
    "wasted",
]

PATIENCE: Final = 1.0
"""Seconds from which a wait, or a hold for nothing, is wrong."""
_FOR_NOTHING: Final = {"awaiting", "nested", "orphaned"}
_DOES: Final = {
    "in_database": "in the database",
    "running": "runs",
    "orphaned": "its task has finished",
    "nested": "wants another connection",
    "awaiting": "awaits something else",
}
_PARTS_SHOWN: Final = 2


@dataclass(frozen=True, slots=True)
class Group:
    """Several that do the same."""

    process: str
    pool: str
    count: int
    longest: float
    """Seconds, of the one that has held or waited longest."""
    does: str
    where: str
    """The line that checked out, or asks."""
    task: str
    """Name of the task, if it is only one."""
    wrong: bool
    good: bool = False
    """Whether the database works for them."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of a pool, by what is in them."""

    database: int
    wrong: int
    used: int
    connecting: int
    idle: int
    free: int | None
    """None without a limit."""


@dataclass(frozen=True, slots=True)
class Monitors:
    """The `PoolMonitor`s of the pools, if any run."""

    ago: float
    """Seconds since the look that is the longest ago."""
    troubles: tuple[tuple[str, str], ...]
    """Pools of whose sessions nothing is known, and why."""


def place(site: Any) -> str:
    """Show a line of code as a person would name it, by the end of its path."""
    if not isinstance(site, dict):
        return "an unknown line"
    parts = str(site.get("file", "?")).replace("\\", "/").split("/")
    for root in ("site-packages", "src"):
        if root in parts[:-1]:
            parts = parts[len(parts) - parts[::-1].index(root) :]
    function = str(site.get("function", "?")).replace("<locals>.", "")
    return f"{'/'.join(parts[-_PARTS_SHOWN:]).lstrip('/')}:{site.get('line', '?')} in {function}"


def _line(site: Mapping[str, Any]) -> str:
    """Show a line by the name of its file alone, beside another that is shown as a whole."""
    return f"{str(site.get('file', '?')).rpartition('/')[2]}:{site.get('line', '?')}"


def is_idle_for_nothing(holder: Mapping[str, Any]) -> bool:
    """Tell whether a connection is held for nothing, and has been for a while."""
    if holder.get("state") not in _FOR_NOTHING or holder.get("declared") is not None:
        return False
    return float(holder["held"]) - float(holder.get("in_database") or 0.0) >= PATIENCE


def is_wrong(processes: Iterable[Process]) -> bool:
    """Tell whether anything is wrong now: a hold for nothing, an overdue one, a long wait, an outage, a process that does not answer."""
    return any(process.trouble is not None or any(_is_pool_wrong(pool) for pool in process.pools) for process in processes)


def _is_pool_wrong(pool: Mapping[str, Any]) -> bool:
    return (
        pool.get("downtime") is not None
        or any(waiter["waited"] >= PATIENCE for waiter in pool["waiters"])
        or any(holder.get("overdue") or is_idle_for_nothing(holder) for holder in pool["holders"])
    )


def slots_of(pool: Mapping[str, Any]) -> Slots:
    """Count a pool's slots."""
    wrong = sum(is_idle_for_nothing(holder) for holder in pool["holders"])
    database = sum(holder.get("state") == "in_database" for holder in pool["holders"])
    size, overflow, idle, opening = (int(pool[key]) for key in ("pool_size", "max_overflow", "idle", "connecting"))
    free = None if size == 0 or overflow < 0 else max(size + overflow - pool["used"] - idle - opening, 0)
    return Slots(database, wrong, max(pool["used"] - wrong - database, 0), opening, idle, free)


def holders(processes: Iterable[Process]) -> list[Group]:
    """Group who holds, the longest first."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for process in processes:
        for pool in process.pools:
            for holder in pool["holders"]:
                groups[process.name, pool["pool"], _does(holder), place(holder["site"])].append(holder)
    return _sorted(
        Group(
            process,
            pool,
            len(found),
            max(holder["held"] for holder in found),
            does,
            where,
            _task(found),
            any(is_idle_for_nothing(holder) or holder.get("overdue") for holder in found),
            found[0].get("state") == "in_database",
        )
        for (process, pool, does, where), found in groups.items()
    )


def waiters(processes: Iterable[Process]) -> list[Group]:
    """Group who waits, the longest first."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for process in processes:
        for pool in process.pools:
            for waiter in pool["waiters"]:
                groups[process.name, pool["pool"], place(waiter["site"])].append(waiter)
    return _sorted(
        Group(process, pool, len(found), longest, "", where, _task(found), longest >= PATIENCE)
        for (process, pool, where), found in groups.items()
        if (longest := max(waiter["waited"] for waiter in found)) >= 0
    )


def sessions(processes: Iterable[Process]) -> list[Group]:
    """Group what the server said of the holders' sessions, the longest in their state first."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for process in processes:
        for pool in process.pools:
            for row in (pool.get("monitor") or {}).get("rows", ()):
                if row.get("session") is not None:
                    groups[process.name, pool["pool"], _is_doing(row), place(row["holder"]["site"])].append(row)
    return _sorted(
        Group(
            process,
            pool,
            len(found),
            max(float(row["session"].get("state_age") or 0.0) for row in found),
            does,
            where,
            "",
            any(row["blocked_by"] or (row["blocks"] and row["session"]["state"] != "active") for row in found),
            found[0]["session"]["state"] == "active",
        )
        for (process, pool, does, where), found in groups.items()
    )


def _is_doing(row: Mapping[str, Any]) -> str:
    """Say what a session does, whom it waits for, and who waits for it."""
    session, blockers = row["session"], row["blocked_by"]
    doing = str(session["state"] or "not shown to this role")
    if blockers:
        holder = blockers[0]["holder"]
        by = f"process {blockers[0]['pid']}" if holder is None or holder["site"] is None else _line(holder["site"])
        doing = f"blocked by {by} ({session['waits_for']})"
    elif session["waits_for"]:
        doing = f"waits for {session['waits_for']}"
    return (f"blocks {row['blocks']}, " if row["blocks"] else "") + doing


def monitors(processes: Iterable[Process]) -> Monitors:
    """Tell how old that is, and where nothing is known."""
    told = [(str(pool["pool"]), pool["monitor"]) for process in processes for pool in process.pools if pool.get("monitor")]
    troubles = tuple((pool, str(each["trouble"])) for pool, each in told if each["trouble"])
    return Monitors(max((float(each["ago"]) for _, each in told), default=0.0), troubles)


def wasted(processes: Iterable[Process]) -> list[tuple[float, str, str]]:
    """Sum up connection-seconds wasted, over all processes: (seconds, what was awaited, line), the worst first."""
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for process in processes:
        for pool in process.pools:
            for waste in pool.get("waste", ()):
                sums[str(waste.get("awaiting") or "not known"), place(waste.get("site"))] += waste["seconds"]
    return sorted(((seconds, *key) for key, seconds in sums.items()), reverse=True)


def _sorted(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: -group.longest)


def _task(found: list[Mapping[str, Any]]) -> str:
    return str(found[0].get("task") or "") if len(found) == 1 else ""


def _does(holder: Mapping[str, Any]) -> str:
    state = holder.get("state")
    does = (
        f"awaits {holder['awaiting']}"
        if holder.get("awaiting") and state != "in_database"
        else _DOES.get(str(state), "not known yet")
    )
    if holder.get("current") is not None and holder["current"] != holder["site"] and state != "in_database":
        does += f" at {_line(holder['current'])}"
    return does + (f" (declared: {holder['declared']})" if holder.get("declared") else "")
