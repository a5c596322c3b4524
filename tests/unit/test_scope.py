"""Blocks of a `with`, nested, shared between contexts, and ended in an order of their own."""

from __future__ import annotations

from contextvars import ContextVar, copy_context

import pytest

from sqla_poolguard._scope import Scope, enter, leave


@pytest.fixture
def variable():
    """Give a context variable of its own."""
    return ContextVar("variable", default=None)


def value(variable):
    """Tell what applies."""
    scope = variable.get()
    return scope.value if scope is not None else None


def test_nested(variable):
    """The innermost block applies, and when it ends the one around it."""
    enter(variable, 1, "a")
    enter(variable, 2, "b")
    assert value(variable) == 2
    leave(variable, "b")
    assert value(variable) == 1
    leave(variable, "a")
    assert variable.get() is None


def test_ended_before_one_that_began_later(variable):
    """Two generators that are stepped in turn end in any order."""
    enter(variable, 1, "a")
    enter(variable, 2, "b")
    enter(variable, 3, "c")
    leave(variable, "a")
    assert value(variable) == 3
    leave(variable, "c")
    assert value(variable) == 2
    leave(variable, "b")
    assert variable.get() is None


def test_one_object_in_two_contexts(variable):
    """What one context leaves, the other is still inside of."""
    other = copy_context()
    enter(variable, 1, "a")
    other.run(enter, variable, 1, "a")
    leave(variable, "a")
    assert variable.get() is None
    assert other.run(variable.get) == Scope(1, "a", None)


def test_one_object_twice(variable):
    """A block within a block of the same object."""
    enter(variable, 1, "a")
    enter(variable, 1, "a")
    leave(variable, "a")
    assert value(variable) == 1
    leave(variable, "a")
    assert variable.get() is None


def test_ended_elsewhere(variable):
    """In a context that is in none of its blocks nothing happens."""
    enter(variable, 1, "a")
    leave(variable, "b")
    assert value(variable) == 1
