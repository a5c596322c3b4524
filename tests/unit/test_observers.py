"""The loop that tells observers: only what they override, never letting one break a checkout."""

from __future__ import annotations

import math

import pytest

from sqla_poolguard import Observer
from sqla_poolguard._facts import Wait
from sqla_poolguard._observers import Observers

EVENTS = ("granted", "ended", "rejected", "opened", "overdue", "returned", "leaked")


class Deaf(Observer):
    """Overrides nothing."""


@pytest.mark.parametrize("event", EVENTS)
def test_only_what_is_overridden_is_called(event):
    """An observer that overrides one method is listed for that one alone."""
    told = []
    observer = type("One", (Observer,), {event: lambda self, fact: told.append(fact)})()
    observers = Observers((Deaf(), observer))
    assert [name for name in EVENTS if getattr(observers, name)] == [event]
    observers.tell(getattr(observers, event), "fact")
    assert told == ["fact"]


def test_overridden_in_a_base_class():
    """An override that is inherited counts."""

    class Base(Observer):
        def leaked(self, checkout):
            pass

    class Derived(Base):
        pass

    assert len(Observers((Derived(),)).leaked) == 1


def test_overridden_on_the_instance():
    """A function put on an instance counts."""
    observer = Deaf()
    told = []
    observer.leaked = told.append
    observers = Observers((observer,))
    observers.tell(observers.leaked, 1)
    assert told == [1]


def test_calling_super_is_harmless():
    """An override may call the empty method."""

    class Polite(Observer):
        def granted(self, holder):
            super().granted(holder)

    observers = Observers((Polite(),))
    observers.tell(observers.granted, None)


def test_told_in_order_and_past_a_failure(caplog):
    """Observers are told in the order in which they were given; a failing one does not stop the others, and is logged once."""
    told = []

    class Named(Observer):
        def __init__(self, name):
            self.name = name

        def ended(self, checkout):
            told.append(self.name)
            if self.name == "b":
                raise ZeroDivisionError

    observers = Observers(Named(name) for name in "abc")
    for _ in range(3):
        observers.tell(observers.ended, None)
    assert told == list("abc") * 3
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("sqla_poolguard", "ERROR")
    assert record.exc_info[0] is ZeroDivisionError
    assert "further failures are not logged" in record.message


def test_wait_is_told_to_those_for_whom_it_is_long_enough():
    """Each observer's threshold is its own, however its method was put there."""
    told = []

    class Patient(Observer):
        waited_from = 10

        @staticmethod
        def waited(wait):
            told.append(("patient", wait.waited))

    keen = Deaf()
    keen.waited = lambda wait: told.append(("keen", wait.waited))
    observers = Observers((Patient(), keen, Deaf()))
    assert observers.waited_from == 0
    for seconds in (0.0, 9.9, 10.0):
        observers.tell_wait(Wait("pool", None, None, seconds, 0.0, 0))
    assert told == [("keen", 0.0), ("keen", 9.9), ("patient", 10.0), ("keen", 10.0)]
    assert Observers((Patient(),)).waited_from == 10
    assert Observers(()).waited_from == math.inf


@pytest.mark.parametrize("seconds", [None, "1", -1, math.nan, True])
def test_threshold_that_is_no_number_of_seconds(seconds):
    """It is refused when the engine is made, not at a checkout."""
    observer = type("Wrong", (Observer,), {"waited_from": seconds, "waited": lambda self, wait: None})()
    with pytest.raises(ValueError, match=r"waited_from of observer .*Wrong.* must be a number of seconds, 0 or more; got"):
        Observers((observer,))
