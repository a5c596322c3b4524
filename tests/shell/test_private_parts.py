"""The canary: each private part of SQLAlchemy that the fast lane stands on is named when it changes, and the safe lane is taken."""

from __future__ import annotations

import operator
import types

import pytest
from doubles.pools import at_rest, ended, engine
from sqlalchemy import event
from sqlalchemy.event import attr
from sqlalchemy.pool import base

from sqla_poolguard import _fastlane, _private

MODULES = {"_EmptyListener": attr}


def owner_of(part):
    """Give the object whose attribute a private part is, and the attribute's name."""
    path, _, name = part.rpartition(".")
    module = MODULES.get(path, base)
    return (operator.attrgetter(path)(module) if path else module), name


def test_nothing_has_changed():
    """This SQLAlchemy is as the fast lane knows it."""
    assert _private.changed_part() is None


@pytest.mark.parametrize("part", _private._PARTS)
def test_changed_parameters_are_named(part, monkeypatch):
    """A function with other parameters is named."""

    def changed(self, something_new):
        pass

    monkeypatch.setattr(*owner_of(part), changed)
    assert _private.changed_part() == part


@pytest.mark.parametrize("part", _private._SLOTS)
def test_changed_slots_are_named(part, monkeypatch):
    """A class without a slot that is needed is named."""
    owner, name = owner_of(part)
    monkeypatch.setattr(owner, name, ("something_new",))
    assert _private.changed_part() == part


@pytest.mark.parametrize("attribute", ["starttime", "_soft_invalidate_time"])
def test_missing_attribute_is_named(monkeypatch, attribute):
    """An attribute that a record has no more is named."""
    monkeypatch.delattr(base._ConnectionRecord, "_soft_invalidate_time")
    init = base._ConnectionRecord.__init__

    def changed(self, pool, **options):
        init(self, pool, **options)
        vars(self).pop(attribute, None)
        if attribute != "_soft_invalidate_time":
            self._soft_invalidate_time = 0

    monkeypatch.setattr(base._ConnectionRecord, "__init__", changed)
    monkeypatch.delattr(base._ConnectionRecord, attribute, raising=False)
    assert _private.changed_part() == f"_ConnectionRecord.{attribute}"


@pytest.mark.parametrize("whose", ["a class of pools", "a pool"])
def test_listeners_that_arrive_elsewhere_are_noticed(monkeypatch, whose):
    """If listeners are kept where nobody looks for them, the lane is closed: silence could not be told any more."""

    def listen(target, name, function):
        if isinstance(target, type) != (whose == "a class of pools"):
            event.listen(target, name, function)

    monkeypatch.setattr(_private, "event", types.SimpleNamespace(listen=listen))
    assert _private.changed_part() == f"the listeners of {whose}"


def test_another_dispatcher_is_noticed(monkeypatch):
    """If a pool gets another dispatcher once somebody listens, the lane, which looks at the first one, is closed."""

    def listen(target, name, function):
        if not isinstance(target, type):
            vars(target)["dispatch"] = type(target).dispatch._for_instance(target)
        event.listen(target, name, function)

    monkeypatch.setattr(_private, "event", types.SimpleNamespace(listen=listen))
    assert _private.changed_part() == "the dispatcher of a pool"


def test_missing_class_is_named(monkeypatch):
    """A class that is gone is named, and nothing raises."""
    monkeypatch.delattr(attr, "_EmptyListener")
    assert _private.changed_part() == "_EmptyListener.__init__"


async def test_missing_class_is_not_needed_on_the_safe_lane(monkeypatch):
    """With the lane closed, a pool works without the parts that have gone."""
    monkeypatch.setattr(_fastlane, "CLOSED_BECAUSE", "_EmptyListener.__init__")
    monkeypatch.delattr(attr, "_EmptyListener")
    db = engine()
    for _ in range(2):
        async with db.connect():
            pass
    assert ended(db) == {"checked_in": 2}
    at_rest(db, idle=1)
