"""The values that travel."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys

import pytest

from sqla_poolguard import Checkout, Ending, Holder, Opened, PoolSnapshot, Reason, Rejection, Site, Wait
from sqla_poolguard._facts import shorten

SITE = Site("/app/orders.py", 48, "list_orders")
FACTS = [
    SITE,
    Holder("p", SITE, "t", 1.0, 2.0),
    Checkout("p", SITE, "t", 1.0, 2.0, Ending.CHECKED_IN),
    Wait("p", SITE, "t", 1.0, 0.5, 3),
    Rejection("p", SITE, "t", 1.0, Reason.TIMEOUT, ValueError()),
    Opened("p", 0.5),
    PoolSnapshot("p", 1, 2, 0, 0, 0, 0, (), ()),
]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_facts_are_frozen_and_slotted(fact):
    """A fact that was told does not change, and takes no dictionary."""
    name = dataclasses.fields(fact)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(fact, name, "other")
    assert not hasattr(fact, "__dict__")


@pytest.mark.parametrize(
    "fact", [fact for fact in FACTS if not isinstance(fact, Rejection)], ids=lambda fact: type(fact).__name__
)
def test_facts_can_be_pickled(fact):
    """A fact crosses a process boundary whole."""
    assert pickle.loads(pickle.dumps(fact)) == fact


def test_snapshot_mappings_are_read_only():
    """The totals of a snapshot cannot be written to, even after a pickle."""
    snap = pickle.loads(pickle.dumps(PoolSnapshot("p", 1, 2, 0, 0, 0, 0, (), ())))
    with pytest.raises(TypeError):
        snap.ended["leaked"] = 1


@pytest.mark.parametrize(
    ("size", "overflow", "limit", "shown"),
    [(5, 10, 15, "5+10"), (0, 10, None, "unlimited"), (5, -1, None, "unlimited"), (1, 0, 1, "1+0")],
)
def test_snapshot_limit(size, overflow, limit, shown):
    """The limit is what SQLAlchemy's two figures mean together."""
    snap = PoolSnapshot("p", size, overflow, 1, 2, 0, 3, (), ())
    assert snap.limit == limit
    assert str(snap) == f"pool 'p' {shown}, 2 out, 1 idle, 3 waiting"


def test_enumerations_are_text():
    """Endings and reasons are their own names in logs and JSON."""
    assert f"{Ending.CHECKED_IN} {Reason.QUEUE_FULL}" == "checked_in queue_full"


def test_site_reads_as_a_person_would_name_it():
    """File, line, function."""
    assert str(Site("/nowhere/app.py", 3, "f")) == "/nowhere/app.py:3 in f"


def test_paths_are_shortened(monkeypatch, tmp_path):
    """A file is shown relative to the nearest of the working directory and the import path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "lib"), "", str(tmp_path / "lib" / "deep")])
    shorten.cache_clear()
    assert shorten(str(tmp_path / "app.py")) == "app.py"
    assert shorten(str(tmp_path / "lib" / "a.py")) == "a.py"
    assert shorten(str(tmp_path / "lib" / "deep" / "b.py")) == "b.py"
    assert shorten(str(tmp_path) + "-other" + os.sep + "c.py") == str(tmp_path) + "-other" + os.sep + "c.py"
    shorten.cache_clear()


def test_shorten_stands_a_strange_environment(monkeypatch, tmp_path):
    """A path that is no text in `sys.path`, or a working folder that is gone, changes nothing for others."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "path", [tmp_path, "", str(tmp_path)])
    shorten.cache_clear()
    assert shorten(str(tmp_path / "app" / "orders.py")) == os.path.join("app", "orders.py")
    shorten.cache_clear()


def test_snapshot_is_hashable():
    """A snapshot can be put into a set, also after it was pickled."""
    assert len({FACTS[-1], pickle.loads(pickle.dumps(FACTS[-1]))}) == 1
