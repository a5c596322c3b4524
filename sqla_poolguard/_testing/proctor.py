"""Watches over a run of pytest: whose test it is, when it has ended, and what it is told. The plugin registers it once a pool exists."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from sqla_poolguard._testing.case import Case
from sqla_poolguard._testing.ending import when_loops_end
from sqla_poolguard._testing.faults import FaultKind, fault_of, put_down_to
from sqla_poolguard._testing.following import follow
from sqla_poolguard._testing.forbidding import ForbiddenCalls
from sqla_poolguard._testing.items import code_of, forget, has_error, is_expected, policy_of
from sqla_poolguard._testing.judgement import is_worth_keeping, judge_end, nested, suspect_rest, suspect_tasks
from sqla_poolguard._testing.late import tell_earlier_tests
from sqla_poolguard._testing.left_over import tasks_till_now
from sqla_poolguard._testing.mains import note_interrupted
from sqla_poolguard._testing.stays import Owner
from sqla_poolguard._testing.tasks import NOT_AT_ALL
from sqla_poolguard._testing.wide import WideFixtures
from sqla_poolguard._testing.witness import Witness

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Collection, Generator, Iterable

    from sqla_poolguard._facts import Site
    from sqla_poolguard._testing.faults import Fault
    from sqla_poolguard._testing.policy import Policy
    from sqla_poolguard._testing.stays import Stay
    from sqla_poolguard._testing.tally import Tally
    from sqla_poolguard._testing.wide import Begun

__all__ = ["Proctor"]

_RUN: Final = "the run itself"


class Proctor:
    """Holds every test to its policy."""

    def __init__(self, policy: Policy, tally: Tally) -> None:
        """
        Begin in the middle of whatever runs: the pool's class has just been imported.

        Args:
            policy: what is demanded of tests without a marker.
            tally: counts what is found, for the summary.
        """
        self._base = self.policy = policy
        self._tally = tally
        self._item: pytest.Item | None = None
        self._nobody = Owner(_RUN)
        """Whose is what is checked out between two tests."""
        self._narrow: set[pytest.FixtureDef[Any]] = set()
        """Fixtures that are known to end with their test: pytest takes long to tell."""
        self._case = Case()
        running = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        self._late: list[Stay] = []
        """What was checked out by tasks that had outlived their test."""
        self.witness = Witness(Owner(running or _RUN), by_lineage=True, is_kept=lambda stay: is_worth_keeping(stay, self.policy))
        self.fixtures = WideFixtures(self.witness)
        self.witness.on_grant.append(self._granted)
        self._duty = contextlib.ExitStack()
        self._forbidden = ForbiddenCalls(policy.forbidden_calls, self._held, self._tell_call)

    @property
    def owner(self) -> Owner:
        """Whose connections are checked out now."""
        return self.witness.owner

    def enter(self) -> None:
        """Go on duty."""
        self.witness.enter()
        self._duty.callback(self.witness.leave)
        self._duty.callback(self.witness.left_over.enter())
        self._duty.callback(when_loops_end(self._loop_ends))

    def take_over(self, session: pytest.Session, done: Iterable[pytest.FixtureDef[Any]], begun: Iterable[Begun]) -> None:
        """
        Learn of what runs already: the pool was imported in the middle of a test.

        Args:
            session: of pytest.
            done: wide fixtures that were set up; some may have ended.
            begun: the fixtures that are being set up, the outermost first; `fixtures.end` is called for each.
        """
        item = next((item for item in session.items if item.nodeid == self.owner.name), None)
        if item is not None:
            self._begin(item, self.owner)
            with contextlib.suppress(pytest.fail.Exception):  # the next test with this marker will tell
                self.policy = policy_of(item, self._base)
        self.fixtures.take_over(item, done, begun)

    def leave(self) -> None:
        """Go off duty, and leave everything as it was."""
        self._duty.close()

    # what pytest calls

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Begin a test; a second run of the same one is another."""
        self._begin(item, Owner(item.nodeid))
        try:
            result = yield
            self.policy = policy_of(item, self._base)
            self._verify_calls(item.session)
        except BaseException as error:
            self._note_expected(item, error)
            raise
        finally:
            if self.fixtures.over:
                self._judge_late(item.session)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """Note whose is what a fixture checks out: its own, if it outlives the test."""
        if fixturedef not in self._narrow:
            if fixturedef.scope != "function":
                self.fixtures.begin(fixturedef, request)
                try:
                    return (yield)
                finally:
                    self.fixtures.end()
            self._narrow.add(fixturedef)
        witness = self.witness
        before, witness.fixture = witness.fixture, fixturedef.argname
        try:
            return (yield)
        finally:
            witness.fixture = before

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Judge the tasks of a test when its code has ended: its event loop may end with its fixtures."""
        earlier = tasks_till_now()
        self._forbidden.enter()
        try:
            try:
                result = yield
            finally:
                self._forbidden.leave()
        except BaseException as error:
            self._note_expected(item, error)
            if isinstance(error, (Exception, pytest.fail.Exception, pytest.skip.Exception)):
                self._note_interrupted(error)
                self._suspect(item, earlier)
            raise
        if getattr(item, "_excinfo", None) and self._item is item and has_error(item):
            self.owner.has_failed = True
        self._suspect(item, earlier)
        if self._item is item and (self._case.faults or self.policy.expect_leak):
            self._case.close(item, "call", self.owner, self.policy, self._tally)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Judge the rest of a test when its fixtures have ended."""
        if self._item is not item:  # the pool was imported while it ran
            self._begin(item, self.owner if self.owner.name == item.nodeid else Owner(item.nodeid))
        try:
            result = yield
        except BaseException:
            self.owner.has_failed = True
            self._end(item)
            raise
        self._end(item)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector) -> None:
        """Note that a test has failed by itself; pytest calls this for the failures that it reports, and for nothing else."""
        if node is self._item:
            self.owner.has_failed = True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Judge the fixtures that pytest ends with the run, as after `-x`, and count what nobody could be told of any more."""
        try:
            return (yield)
        finally:
            failed = session.testsfailed
            self._judge_late(session)
            if session.testsfailed > failed and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self._tally.add_untold(self._late)

    # what it does

    def _begin(self, item: pytest.Item, owner: Owner) -> None:
        witness = self.witness
        self._item, witness.owner, witness.fixture, witness.test = item, owner, None, code_of(item)
        self._case, self.policy = Case(), self._base
        forget(item)

    def _note_expected(self, item: pytest.Item, error: BaseException) -> None:
        """Note that a test fails as it should: pytest reports no failure then."""
        if self._item is item and is_expected(item, error):
            self.owner.has_failed = True

    def _note_interrupted(self, error: BaseException | None) -> None:
        """Let no loop run on for the tasks of a test whose own code would go on with it."""
        if note_interrupted(error):
            self.policy = self.policy._replace(quiesce=NOT_AT_ALL)

    def _suspect(self, item: pytest.Item, earlier: Collection[Task[Any]]) -> None:
        if self._item is item:
            owner = self.owner
            for stay in tuple(owner.stays):
                stay.stop_counting()
            self._case.in_time(self.policy, partial(suspect_tasks, owner, earlier=earlier))

    def _loop_ends(self, loop: AbstractEventLoop) -> None:
        self._note_interrupted(sys.exception())
        self._case.in_time(self.policy, partial(suspect_rest, self.witness.now_out(), loop))

    def _end(self, item: pytest.Item) -> None:
        owner, case = self.owner, self._case
        try:
            if owner.stays:
                case.faults += case.in_time(self.policy, partial(judge_end, owner, fixtures=self.fixtures.living))
            else:
                owner.has_ended = True
            if self.fixtures.over:
                case.faults += self._judge_wide(self.policy)
            if case.faults:
                case.faults = tell_earlier_tests(case.faults, item.session, self._tally, self._base.mode, now=item.nodeid)
        finally:
            if owner.stays:
                self._late += (stay for stay in owner.stays if stay.is_out and not stay.is_told)
            self._item, self.witness.owner = None, self._nobody
            self.witness.left_over.mark(owner)
            self.witness.left_over.threads.mark(owner)
            self._tally.add_rest(owner, has_ledger=self.policy.ledger)
        if case.faults or self.policy.expect_leak:
            case.close(item, "teardown", owner, self.policy, self._tally)

    def _judge_wide(self, policy: Policy, *, is_late: bool = False) -> list[Fault]:
        """Judge the fixtures that have ended."""
        faults: list[Fault] = []
        for fixture in tuple(self.fixtures.over):
            found = self._case.in_time(policy._replace(max_hold=None), partial(judge_end, fixture, fixtures=self.fixtures.living))
            faults += [put_down_to(fixture.name, fault) for fault in found] if is_late else found
            self.fixtures.over.remove(fixture)
        return faults

    def _judge_late(self, session: pytest.Session) -> None:
        """Judge the fixtures that have ended in no test's teardown: in the next one's setup, with their parameter, or with the run."""
        faults = self._judge_wide(self._base, is_late=True) if self.fixtures.over else []
        for fault in tell_earlier_tests(faults, session, self._tally, self._base.mode) if faults else ():
            self._tally.add(fault, fault.test or _RUN)

    def _verify_calls(self, session: pytest.Session) -> None:
        """See whether the forbidden calls are there, as far as their modules are; no test would do better without."""
        try:
            self._forbidden.verify()
        except ValueError as error:
            session.shouldfail = str(error)
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    def _granted(self, stay: Stay) -> None:
        self._forbidden.look_again()
        policy = self.policy
        if policy.max_nesting is not None:
            self._case.faults += nested(stay, self.witness.now_out(), policy)
        if stay.owner.has_ended:
            self._late.append(stay)
        if policy.ledger or (policy.max_foreign_await is not None and policy.allow_hold is None and not stay.is_fixtures):
            follow(stay)  # each of its awaits has to be seen

    def _held(self) -> list[Stay]:
        """Give the connections with which no forbidden call may be made."""
        if self.policy.allow_hold is not None:
            return []
        return [stay for stay in self.witness.now_out() if stay.owner is self.owner and not stay.is_fixtures]

    def _tell_call(self, stay: Stay, at: Site, call: str) -> bool:
        """Note a forbidden call: whoever makes it may swallow what it raises."""
        self._case.faults.append(fault_of(FaultKind.FORBIDDEN_CALL, stay, at, call))
        return self.policy.mode == "strict"
