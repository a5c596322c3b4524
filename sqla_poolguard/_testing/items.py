"""One test, as pytest knows it: what its markers ask for, and what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sqla_poolguard._testing.faults import describe
from sqla_poolguard._testing.late import PROPERTY, TITLE
from sqla_poolguard._testing.policy import PoolguardWarning

if TYPE_CHECKING:
    from sqla_poolguard._testing.faults import Fault
    from sqla_poolguard._testing.policy import Policy

__all__ = ["forget", "policy_of", "tell"]


def policy_of(item: pytest.Item, base: Policy) -> Policy:
    """
    Apply a test's markers: its own, its class's, its module's. Of each argument the nearest holds.

    Args:
        item: the test.
        base: what is demanded of tests without one.

    Raises:
        ValueError: an argument is unknown, or its value is not allowed.
    """
    for marker in reversed(list(item.iter_markers("poolguard"))):
        base = base.with_marker(marker.args, marker.kwargs)
    return base


def forget(item: pytest.Item) -> None:
    """Take back what a test was told in an earlier run, as pytest-rerunfailures makes: the reports of this one are not to have it."""
    item.user_properties[:] = [found for found in item.user_properties if found[0] != PROPERTY]
    item._report_sections[:] = [section for section in item._report_sections if section[1] != TITLE]


def tell(item: pytest.Item, when: str, faults: list[Fault], policy: Policy, limit: str, *, has_failed: bool) -> None:
    """
    Fail a test for what was found, or warn.

    Args:
        item: the test.
        when: the phase of it, as pytest calls it.
        faults: there is one at least.
        policy: says whether to warn.
        limit: what is to be told of a limit that struck meanwhile.
        has_failed: whether it has failed by itself: then it is told beside that.

    Raises:
        pytest.fail.Exception: strict, and it had not failed.
    """
    item.user_properties.extend((PROPERTY, fault.headline) for fault in faults)
    text = describe(faults) + limit
    if has_failed:
        item.add_report_section(when, TITLE, f"This test failed by itself, and left this:\n{text}")
    elif policy.mode == "warn":
        item.warn(PoolguardWarning(text))
    else:
        pytest.fail(f"{TITLE}: {text}", pytrace=False)
