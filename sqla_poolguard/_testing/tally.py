"""Counts what a run has found, for its summary: which lines wasted connections, for how long. It is summed up over xdist's workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqla_poolguard._facts import Ending
from sqla_poolguard._testing.faults import FaultKind, fault_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqla_poolguard._testing.faults import Fault
    from sqla_poolguard._testing.stays import Owner, Stay

__all__ = ["Tally"]

_WORTH_TELLING = 0.01
"""Seconds that a line must have wasted to be listed, if nothing is wrong with it."""

_Row = tuple[str, str]
"""What happened, and where."""


class Tally:
    """The lines of a run that wasted connections."""

    def __init__(self) -> None:
        self._rows: dict[_Row, list[Any]] = {}
        """Row to [times, connection-seconds, a test in which it happened, whether it is a fault]."""
        self.ledger: list[str] = []
        """What the time of each test's leases went for, in lines."""

    def add(self, fault: Fault, test: str) -> None:
        """Count what is wrong in a test."""
        self._add((str(fault.kind), f"checked out at {fault.site or 'an unknown line'}"), 1, fault.wasted, test)

    def add_rest(self, owner: Owner, *, has_ledger: bool) -> None:
        """Count what was right with the connections of a test that is over; write its ledger, if there is to be one."""
        for stay in tuple(owner.stays):
            if not stay.is_told:
                self.add_hold(stay)
        if has_ledger:
            self.add_ledger(owner.name, owner.stays)

    def add_untold(self, stays: Iterable[Stay]) -> None:
        """Count what was left out or lost after its test was judged, and nobody was told of."""
        for stay in stays:
            if not stay.is_told and (stay.is_out or stay.ending is Ending.LEAKED):
                self.add(fault_of(FaultKind.LEFT_OUT if stay.is_out else FaultKind.LEAKED, stay), stay.owner.name)

    def add_hold(self, stay: Stay) -> None:
        """Count what a connection that came back has cost while its holder awaited something else, as far as anybody looked."""
        site, awaiting = stay.wasted_at
        if stay.elsewhere and site is not None:
            name = str(stay.owner)
            self._add(("idle", f"awaiting {awaiting} at {site}"), 1, stay.elsewhere, name, is_fault=False)

    def add_ledger(self, test: str, stays: Iterable[Stay]) -> None:
        """Write down what the time of a test's leases went for."""
        kept = [stay for stay in stays if stay.account is not None]
        if kept:
            self.ledger.append(test)
        for stay in kept:
            account = stay.account
            if account is not None:
                if stay.is_out:
                    account.end(stay.now())
                self.ledger.append(f"    {account.describe(stay.charged)}: checked out at {stay.site or 'an unknown line'}")
                self.ledger += [
                    f"    {absence.seconds * 1000:>8.0f} ms  {absence.awaiting} at {absence.site}" for absence in account.absences
                ]

    def merge(self, rows: Iterable[Any], ledger: Iterable[str]) -> None:
        """Take over what a worker has counted: what its `rows()` gave, and its ledger."""
        self.ledger += ledger
        for kind, where, count, seconds, test, is_fault in rows:
            self._add((kind, where), count, seconds, test, is_fault=is_fault)

    def rows(self) -> list[tuple[Any, ...]]:
        """Give everything, as plain values: what, where, times, connection-seconds, a test, whether it is a fault."""
        return [(*row, *figures) for row, figures in self._rows.items()]

    def lines(self) -> list[str]:
        """Write the summary, the most connection-time first."""
        told = [row for row in self.rows() if row[5] or row[3] >= _WORTH_TELLING]
        told.sort(key=lambda row: (-row[3], -row[2], row[1]))
        return [f"{seconds:>8.3f} s {count:>4} x  {kind}: {where} (in {test})" for kind, where, count, seconds, test, _ in told]

    def _add(self, row: _Row, count: int, seconds: float, test: str, *, is_fault: bool = True) -> None:
        figures = self._rows.setdefault(row, [0, 0.0, test, is_fault])
        figures[0] += count
        figures[1] += seconds
