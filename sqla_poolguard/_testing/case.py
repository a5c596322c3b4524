"""What was found of one test, until it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from sqla_poolguard._testing.faults import LEAKS
from sqla_poolguard._testing.items import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqla_poolguard._testing.faults import Fault
    from sqla_poolguard._testing.policy import Policy
    from sqla_poolguard._testing.stays import Owner
    from sqla_poolguard._testing.tally import Tally

__all__ = ["Case"]

_Judged = TypeVar("_Judged")


class Case:
    """One run of a test, as its judges see it."""

    _has_leaked = False
    """Whether the leak that the test must have was seen."""
    _limit = ""
    """What is to be told of a limit that struck meanwhile."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        """What was found, and not told yet."""

    def in_time(self, policy: Policy, judge: Callable[[Policy], _Judged]) -> _Judged:
        """Judge; at once, if a limit strikes while tasks have time to end, as pytest-timeout's: it would hide what we have found."""
        try:
            return judge(policy)
        except pytest.fail.Exception as limit:
            self._limit = f"\n    the time that its tasks have to end was cut short: {limit}"
            return judge(policy._replace(quiesce=min(policy.quiesce, 0.0)))

    def close(self, item: pytest.Item, when: str, owner: Owner, policy: Policy, tally: Tally) -> None:
        """
        Fail the test for what was found, or warn, when a phase of it is over.

        Raises:
            pytest.fail.Exception: strict, and there is something; or nothing has leaked that should have.
        """
        faults, self.faults = self.faults, []
        if policy.expect_leak:
            leaks = [fault for fault in faults if fault.kind in LEAKS]
            faults = [fault for fault in faults if fault.kind not in LEAKS]
            self._has_leaked = self._has_leaked or bool(leaks)
            if when == "teardown" and not self._has_leaked and not owner.has_failed:
                pytest.fail("expect_leak=True, but every connection came back; remove it from the marker", pytrace=False)
        if not faults:
            return
        for fault in faults:
            tally.add(fault, owner.name)
        tell(item, when, faults, policy, self._limit, has_failed=owner.has_failed)
