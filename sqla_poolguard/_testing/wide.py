"""Fixtures that outlive a test: which are being set up, which live, which have ended. What they check out and begin is theirs."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqla_poolguard._testing.keeping import living_sessions, place_of
from sqla_poolguard._testing.left_over import Standing
from sqla_poolguard._testing.stays import Owner

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import pytest

    from sqla_poolguard._testing.witness import Witness

    Begun = tuple[pytest.FixtureDef[Any], pytest.FixtureRequest]
    """A fixture that is being set up, and who asks for it."""

__all__ = ["WideFixtures"]


class _Setup(NamedTuple):
    """A fixture that is being set up."""

    owner: Owner | None
    """Whose is what it checks out; None: the test's, since it ends with it."""
    before: tuple[Owner, str | None]
    """What the witness has noted of whoever has asked for it."""
    sessions: Collection[Any]
    """Keys of the sessions that others have made."""
    standing: Standing
    """What others have begun."""
    fixture: pytest.FixtureDef[Any] | None = None


class WideFixtures:
    """The fixtures of classes, modules, packages and the session."""

    def __init__(self, witness: Witness) -> None:
        """
        Begin with none.

        Args:
            witness: is told whose is what is checked out in a setup.
        """
        self._witness = witness
        self._setups: list[_Setup] = []
        self.living: dict[Any, Owner] = {}
        """Those that live, by their definitions."""
        self.over: list[Owner] = []
        """Those that have ended, and are still to be judged."""

    def begin(self, fixture: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
        """Note that the setup of a fixture begins."""
        witness = self._witness
        before = witness.owner, witness.fixture
        if fixture.scope == "function":  # in the midst of which the pool was imported
            witness.fixture = fixture.argname
            self._setups.append(_Setup(None, before, (), Standing()))
            return
        witness.left_over.threads.mark(witness.owner if witness.owner.fixture is None else None)  # they are not of this setup
        owner = self._adopt(fixture, request)
        witness.owner, witness.fixture = owner, None
        self._setups.append(_Setup(owner, before, living_sessions().keys(), witness.left_over.standing(), fixture))

    def end(self) -> None:
        """Note that the setup that began last is over."""
        setup = self._setups.pop()
        if setup.owner is not None:
            made = (session for key, session in living_sessions().items() if key not in setup.sessions)
            setup.owner.sessions = weakref.WeakSet(made)
            self._note_loop(setup.fixture)
            self._witness.left_over.mark(setup.owner, setup.standing)
            self._witness.left_over.threads.mark(None)
        self._witness.owner, self._witness.fixture = setup.before

    def _finish(self, fixture: pytest.FixtureDef[Any]) -> None:
        """Note that a fixture has ended; if its setup was seen, after everything else that ends with it."""
        owner = self.living.pop(fixture, None)
        if owner is not None:
            self.over.append(owner)

    def take_over(self, item: pytest.Item | None, done: Iterable[pytest.FixtureDef[Any]], begun: Iterable[Begun]) -> None:
        """
        Learn of the fixtures that were there before: the pool has just been imported.

        Args:
            item: the test that runs.
            done: wide fixtures that were set up; some may have ended.
            begun: the fixtures that are being set up, the outermost first; `end` is called for each.
        """
        for fixture in done:
            if fixture.cached_result is not None:
                self._adopt(fixture, item)
                self._note_loop(fixture)
        for fixture, request in begun:
            self.begin(fixture, request)
            self._setups[-1] = self._setups[-1]._replace(
                standing=Standing()
            )  # it began, as far as anybody knows, since its setup did

    def _note_loop(self, fixture: pytest.FixtureDef[Any] | None) -> None:
        if fixture is not None and fixture.cached_result is not None:
            self._witness.left_over.add_loop(of=fixture.cached_result[0])

    def _adopt(self, fixture: pytest.FixtureDef[Any], asked_by: Any) -> Owner:
        owner = self.living[fixture] = Owner(self._witness.owner.name, fixture.argname, fixture.scope)
        owner.place = place_of(fixture, asked_by)
        fixture.addfinalizer(partial(self._finish, fixture))
        return owner
