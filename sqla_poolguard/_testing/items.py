"""One test, as pytest knows it: what its markers ask for, and what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sqla_poolguard._testing.faults import describe
from sqla_poolguard._testing.late import PROPERTY, TITLE
from sqla_poolguard._testing.policy import PoolguardWarning

if TYPE_CHECKING:
    from types import CodeType

    from sqla_poolguard._testing.faults import Fault
    from sqla_poolguard._testing.policy import Policy

__all__ = ["code_of", "forget", "has_error", "is_expected", "policy_of", "tell"]


def policy_of(item: pytest.Item, base: Policy) -> Policy:
    """
    Apply a test's markers: its own, its class's, its module's. Of each argument the nearest holds.

    Args:
        item: the test.
        base: what is demanded of tests without one.

    Raises:
        pytest.fail.Exception: an argument is unknown, or its value is not allowed.
    """
    node: pytest.Item | pytest.Collector | None = item
    markers: list[pytest.Mark] = []
    while node is not None:
        if node.own_markers:
            markers += [marker for marker in node.own_markers if marker.name == "poolguard"]
        node = node.parent
    try:
        for marker in reversed(markers):
            base = base.with_marker(marker.args, marker.kwargs)
    except ValueError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    return base


def code_of(item: pytest.Item) -> CodeType | None:
    """Give the code of a test's function, if it is nobody else's: not a decorator's, say."""
    function = getattr(item, "_obj", None)  # `item.function`, without what that looks up again
    is_shared = getattr(function, "__closure__", None) is not None or hasattr(function, "__wrapped__")
    return None if is_shared else getattr(function, "__code__", None)


def has_error(item: pytest.Item) -> bool:
    """Tell whether a test has failed, expectedly or not, though nothing was raised: pytest keeps unittest's errors until it makes the report."""
    kept = getattr(item, "_excinfo", None)
    caught = [error for error in kept if isinstance(error, pytest.ExceptionInfo)] if isinstance(kept, list) else []
    return any(not isinstance(error.value, pytest.skip.Exception) for error in caught)


def is_expected(item: pytest.Item, error: BaseException) -> bool:
    """Tell whether a test that ends by an error is to, as `xfail` says."""
    if isinstance(error, pytest.skip.Exception):
        return False
    return isinstance(error, pytest.xfail.Exception) or item.get_closest_marker("xfail") is not None


def forget(item: pytest.Item) -> None:
    """Take back what a test was told in an earlier run, as pytest-rerunfailures makes: the reports of this one are not to have it."""
    if item.user_properties:
        item.user_properties[:] = [found for found in item.user_properties if found[0] != PROPERTY]
    if item._report_sections:
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
